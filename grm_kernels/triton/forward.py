"""Forward pass: a streaming softmax over the keys that a block of queries sees, both in category order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants, device, ops
from . import config, order
from .order import sort_image
from .tiles import load_rows, load_tokens, policy_columns, sees, soft_weights, store_rows, tile_edges

_LN_2 = tl.constexpr(constants.LN_2)
_NO_SCORE = tl.constexpr(constants.NO_SCORE)
# So many programs, about one for each multiprocessor, sort the tokens of their image each for itself, which saves the
# launch of a kernel for it. More would sort one after another; those of float32 have no registers left.
_SORTING_PROGRAMS = 128


@triton.jit
def forward_kernel(
    q, q_b, q_h, q_n,
    k, k_b, k_h, k_n,
    v, v_b, v_h, v_n,
    out, lse, categories, categories_b, categories_n, sorted_tokens, bounds, policy,
    H, GROUP, N, scale,
    D: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    SOFT: tl.constexpr, NEGATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program for every block of queries of every head. `scale` is not negative and in units of log 2.

    With `categories` `sorted_tokens` is memory (programs, N) for the order, which is made here; else it is (B, N) and
    was made before, like `bounds`.
    """
    blocks = tl.cdiv(N, BLOCK)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    b, h = head // H, head % H
    first = tl.program_id(0) % blocks * BLOCK
    q += b * q_b + h * q_h
    k += b * k_b + h // GROUP * k_h
    v += b * v_b + h // GROUP * v_h
    n_t, n_ta, n = 0, 0, N  # n tokens count
    if categories is not None:
        sorted_tokens += tl.program_id(0).to(tl.int64) * N
        n_t, n_ta, n = sort_image(categories + b * categories_b, categories_n, sorted_tokens, N, CHUNK)
        tl.debug_barrier()  # a thread reads what others wrote
    elif sorted_tokens is not None:
        sorted_tokens += b * N
        n_t, n_ta, n = tl.load(bounds + 3 * b), tl.load(bounds + 3 * b + 1), tl.load(bounds + 3 * b + 2)
    if SOFT:
        policy += b * N * 3
        tiles = tl.where(first < n, tl.cdiv(n, TILE), 0)
        edges = (0, tiles, tiles, tiles)
    else:
        edges = tile_edges(first, tl.minimum(first + BLOCK, n), n_t, n_ta, n, TILE)

    rank = first + tl.arange(0, BLOCK)  # [BLOCK]
    exists = rank < n
    token = load_tokens(sorted_tokens, rank, N)
    queries = load_rows(q, token, q_n, exists, D, BD, True)  # [BLOCK, BD]
    if NEGATED:
        queries = -queries
    p, s = policy_columns(policy, rank, token, n_t, n_ta, n, SOFT)

    maximum = tl.full([BLOCK], _NO_SCORE, tl.float32)  # of the scores before `scale`
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, BD], tl.float32)
    # Tiles on an edge, tiles that the whole block sees, tiles on the other edge.
    for phase in tl.static_range(3):
        for tile in range(edges[phase], edges[phase + 1]):
            other = tile * TILE + tl.arange(0, TILE)  # [TILE]
            other_token = load_tokens(sorted_tokens, other, N)
            keys = load_rows(k, other_token, k_n, other < n, D, BD, phase != 1)  # [TILE, BD]
            values = load_rows(v, other_token, v_n, other < n, D, BD, phase != 1)  # [TILE, BD]
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)  # [BLOCK, TILE]
            if phase != 1:
                if SOFT:
                    p_other, s_other = policy_columns(policy, other, other_token, n_t, n_ta, n, SOFT)
                    weights = soft_weights(rank, other, p, s, p_other, s_other)
                    seen = ((weights > 0) | (weights != weights)) & (other < n)[None, :]
                else:
                    seen = sees(rank, other, n_t, n_ta, n)
                scores = tl.where(seen, scores, _NO_SCORE)

            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            factor = tl.exp2((maximum - new_maximum) * scale)
            e = tl.exp2(scores * scale - (new_maximum * scale)[:, None])
            if phase != 1:
                e = tl.where(seen, e, 0.0)
                if SOFT:
                    e *= weights
            maximum = new_maximum
            total = total * factor + tl.sum(e, 1)
            acc = tl.dot(e.to(values.dtype), values, acc * factor[:, None], input_precision=PRECISION)

    total = tl.where(exists, total, 1.0)  # padding, and ranks beyond the last, may have seen nothing
    inverse = tl.math.div_rn(1.0, total)  # correctly rounded, once a row
    result = tl.where(exists[:, None], acc * inverse[:, None], 0.0)
    store_rows(out + b * N * H * D + h * D, token, H * D, rank < N, result, D, BD)
    result_lse = tl.where(exists, maximum * scale * _LN_2 + tl.log(total), -float("inf"))
    tl.store(lse + head * N + token, result_lse, mask=rank < N)


def forward(
    q: Tensor, k: Tensor, v: Tensor, categories: Tensor | None, soft_policy: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The operator `grm_kernels::triton_forward`: see ops.py."""
    q, k, v = ops.with_adjacent_channels(q, k, v)
    b, h, n, d = q.shape
    out = ops.empty_like_output(q)
    lse = torch.empty((b, h, n), dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse
    kind = config.kind_of(q.dtype)
    tiles = config.configuration("forward", kind, device.capability(q.device), d)
    soft = soft_policy is not None
    programs = b * h * triton.cdiv(n, tiles.block)
    with device.current(q):
        unsorted, sorted_tokens, bounds = categories, None, None
        if categories is not None and kind == "half" and programs <= _SORTING_PROGRAMS and n <= order.LARGEST_CHUNK:
            sorted_tokens = torch.empty((programs, n), dtype=torch.int32, device=q.device)
        elif categories is not None:
            unsorted = None
            sorted_tokens, bounds = order.sort(categories)
        forward_kernel[(programs,)](
            q, *q.stride()[:3],
            k, *k.stride()[:3],
            v, *v.stride()[:3],
            out, lse, unsorted, *((0, 0) if unsorted is None else unsorted.stride()), sorted_tokens, bounds,
            None if soft_policy is None else soft_policy.contiguous(),
            h, h // k.shape[1], n, abs(scale) * constants.LOG2_E,
            D=d, BD=triton.next_power_of_2(d), BLOCK=tiles.block, TILE=tiles.tile, CHUNK=order.chunk(n),
            SOFT=soft, NEGATED=scale < 0, PRECISION="tf32" if kind == "tf32" else "ieee",
            num_warps=tiles.warps, num_stages=tiles.stages, maxnreg=tiles.registers,
        )  # fmt: skip
    return out, lse
