"""What the forward and the backward kernel share: ranges of ranks, rows by token, the weight of a pair."""

import triton
import triton.language as tl


@triton.jit
def tile_edges(first, last, n_t, n_ta, n, TILE: tl.constexpr):
    """Which tiles of ranks the block of ranks [first, last) meets.

    "i sees j" is symmetric, so this serves blocks of queries and of keys alike.

    Returns:
        (begin, clear_begin, clear_end, end): some rank of the block sees some rank of the tiles [begin, end), and every
        rank of the block sees every rank of the tiles [clear_begin, clear_end). No tiles for a block from n on.

    """
    begin = tl.where(first >= n_ta, n_t, 0) // TILE  # a block of S alone does not see T
    end = tl.cdiv(tl.where(last <= n_t, n_ta, n), TILE)  # a block of T alone does not see S
    begin = tl.where(first < n, begin, 0)
    end = tl.where(first < n, end, 0)
    clear_begin = tl.minimum(tl.cdiv(tl.where(last > n_ta, n_t, 0), TILE), end)
    clear_end = tl.maximum(tl.minimum(tl.where(first < n_t, n_ta, n) // TILE, end), clear_begin)
    return begin, clear_begin, clear_end, end


@triton.jit
def load_tokens(order, rank, n):
    """The token at every rank; without an order a rank is a token. Ranks from n on have no meaning but are safe."""
    if order is not None:
        return tl.load(order + rank, mask=rank < n, other=0)
    else:
        return rank


@triton.jit
def load_rows(base, token, stride, exists, D: tl.constexpr, BD: tl.constexpr, CHECKED: tl.constexpr):
    """Rows of `token` [R], as [R, BD]; zeros beyond channel D and, if CHECKED, where not `exists` [R]."""
    channel = tl.arange(0, BD)
    pointers = base + token.to(tl.int64)[:, None] * stride + channel[None, :]
    if CHECKED:
        return tl.load(pointers, mask=exists[:, None] & (channel < D)[None, :], other=0.0)
    elif D < BD:
        return tl.load(pointers, mask=(channel < D)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_rows(base, token, stride, exists, rows, D: tl.constexpr, BD: tl.constexpr):
    """Writes rows [R, BD] to `token` [R] where it `exists`, converted to the type of the memory."""
    channel = tl.arange(0, BD)
    pointers = base + token.to(tl.int64)[:, None] * stride + channel[None, :]
    tl.store(pointers, rows.to(base.dtype.element_ty), mask=exists[:, None] & (channel < D)[None, :])


@triton.jit
def policy_columns(policy, rank, token, n_t, n_ta, n, SOFT: tl.constexpr):
    """(p, s) at every rank [R], float32: read from the image's policy (N, 3), or the one-hot of the category."""
    exists = rank < n
    if SOFT:
        p = tl.load(policy + 3 * token.to(tl.int64), mask=exists, other=0.0)
        s = tl.load(policy + 3 * token.to(tl.int64) + 1, mask=exists, other=0.0)
    else:
        p = (rank < n_t).to(tl.float32)
        s = ((rank >= n_ta) & exists).to(tl.float32)
    return p, s


@triton.jit
def soft_weights(rank, other, p, s, p_other, s_other):
    """M [R, C] of ranks [R] and [C]: max(0, 1 - p_i s_j - s_i p_j), and 1 on the diagonal."""
    weight = 1.0 - p[:, None] * s_other[None, :] - s[:, None] * p_other[None, :]
    weight = tl.maximum(weight, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(rank[:, None] == other[None, :], 1.0, weight)


@triton.jit
def sees(rank, other, n_t, n_ta, n):
    """Whether ranks [R] see ranks [C], as [R, C]. Ranks from n on are not seen."""
    low = tl.where(rank >= n_ta, n_t, 0)
    high = tl.where(rank < n_t, n_ta, n)
    return (other[None, :] >= low[:, None]) & (other[None, :] < high[:, None])
