"""Backward pass: a prologue (delta and the category order), the gradients, and the policy's sum over heads.

The gradients of queries and of keys are swept by the same code, because "sees" is symmetric: a program owns a block
of rows, of queries (with dout) or of keys (with values), and walks over tiles of the other kind. With the policy's
gradient the tiles of blocked pairs are visited too, for the scores and dP only. See docs/attention.md.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants, device, ops
from . import config, order
from .order import write_order
from .tiles import load_rows, load_tokens, policy_columns, sees, soft_weights, store_rows, tile_edges

_LOG2_E = tl.constexpr(constants.LOG2_E)
_LOG2_SATURATION = tl.constexpr(constants.LOG2_SATURATION)
# Of E where 0 < M < 1: E is at most 1 / M, but has to stay finite whatever lse was rounded to.
_LARGEST_EXPONENT = tl.constexpr(126.0)

# Rows of one program of the prologue and of the sum over heads.
_ROWS = 64
# Per-head sums of a token: of dM_ij s_j and dM_ij p_j over keys j, and of dM_ji s_j and dM_ji p_j over queries j.
_PLANES = tl.constexpr(4)


@triton.jit(do_not_specialize=["B"])  # else B of 1, and B that divide by 16, would be compiled for each
def prologue_kernel(
    out, out_b, out_h, out_n,
    grad_out, grad_out_b, grad_out_h, grad_out_n,
    grad_lse, delta,
    categories, categories_b, categories_n, sorted_tokens, bounds,
    B, H, N,
    D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The first B programs each sort an image, if it has categories; the others Delta_i = dout_i . out_i - dlse_i."""
    program = tl.program_id(0)
    if categories is not None:
        if program < B:
            b = program.to(tl.int64)
            write_order(categories, categories_b, categories_n, sorted_tokens, bounds, b, N, CHUNK)
        program -= B
    if program >= 0:
        blocks = tl.cdiv(N, ROWS)
        head = (program // blocks).to(tl.int64)
        b, h = head // H, head % H
        token = program % blocks * ROWS + tl.arange(0, ROWS)  # [ROWS]
        exists = token < N
        o = load_rows(out + b * out_b + h * out_h, token, out_n, exists, D, BD, True)  # [ROWS, BD]
        do = load_rows(grad_out + b * grad_out_b + h * grad_out_h, token, grad_out_n, exists, D, BD, True)
        result = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
        if grad_lse is not None:
            result -= tl.load(grad_lse + head * N + token, mask=exists, other=0.0)
        tl.store(delta + head * N + token, result, mask=exists)


@triton.jit
def sweep(
    own_a, own_a_n, own_b, own_b_n, other_a, other_a_n, other_b, other_b_n,
    grad_a, grad_b, partials, lse, delta, sorted_tokens, bounds, policy,
    first, N, grad_n, scale,
    OWN_KEYS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFT: tl.constexpr, POLICY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The block of ranks from `first` on meets all tiles of the other side, within one head.

    Owning queries, a and b are q and dout, the others k and v; owning keys, a and b are k and v, the others q and dout.
    Either way S = a . a', dP = b . b' and grad a = scale sum dS a'; keys also have grad b = sum P b'.
    """
    n = N  # tokens that count
    if sorted_tokens is not None:
        n = tl.load(bounds + 2)
    tiles = tl.where(first < n, tl.cdiv(n, TILE), 0)
    if SOFT:
        n_t, n_ta = 0, 0
        edges = (0, 0, tiles, tiles)
    else:
        n_t, n_ta = tl.load(bounds), tl.load(bounds + 1)
        edges = tile_edges(first, tl.minimum(first + BLOCK, n), n_t, n_ta, n, TILE)
        if POLICY:
            edges = (0, edges[0], edges[3], tiles)

    rank = first + tl.arange(0, BLOCK)  # [BLOCK]
    exists = rank < n
    token = load_tokens(sorted_tokens, rank, N)
    a = load_rows(own_a, token, own_a_n, exists, D, BD, True)  # [BLOCK, BD]
    b = load_rows(own_b, token, own_b_n, exists, D, BD, True)  # [BLOCK, BD]
    p, s = policy_columns(policy, rank, token, n_t, n_ta, n, SOFT)
    if not OWN_KEYS:
        row_lse = tl.load(lse + token, mask=exists, other=0.0)[:, None] * _LOG2_E  # [BLOCK, 1]
        row_delta = tl.load(delta + token, mask=exists, other=0.0)[:, None]

    acc_a = tl.zeros([BLOCK, BD], tl.float32)
    acc_b = tl.zeros([BLOCK, BD], tl.float32)
    sum_p = tl.zeros([BLOCK], tl.float32)
    sum_s = tl.zeros([BLOCK], tl.float32)
    # With a policy: blocked tiles, those with a pair that is not, blocked tiles. Without: the edges and what is between
    # them, as in the forward pass.
    for phase in tl.static_range(3):
        if phase == 1 or not SOFT:
            for tile in range(edges[phase], edges[phase + 1]):
                other = tile * TILE + tl.arange(0, TILE)  # [TILE]
                there = other < n
                other_token = load_tokens(sorted_tokens, other, N)
                a_other = load_rows(other_a, other_token, other_a_n, there, D, BD, POLICY or SOFT or phase != 1)
                b_other = load_rows(other_b, other_token, other_b_n, there, D, BD, POLICY or SOFT or phase != 1)
                if OWN_KEYS:
                    row_lse = tl.load(lse + other_token, mask=there, other=0.0)[None, :] * _LOG2_E  # [1, TILE]
                    row_delta = tl.load(delta + other_token, mask=there, other=0.0)[None, :]

                exponent = tl.dot(a, tl.trans(a_other), input_precision=PRECISION) * scale - row_lse  # [BLOCK, TILE]
                dp = tl.dot(b, tl.trans(b_other), input_precision=PRECISION)  # [BLOCK, TILE]
                if POLICY or SOFT:
                    p_other, s_other = policy_columns(policy, other, other_token, n_t, n_ta, n, SOFT)
                if SOFT:
                    weights = soft_weights(rank, other, p, s, p_other, s_other)
                    seen = ((weights > 0) | (weights != weights)) & there[None, :]
                elif POLICY or phase != 1:
                    seen = sees(rank, other, n_t, n_ta, n)
                # The exponent of an allowed pair is 0 at most where M = 1, but for the rounding of lse.
                if SOFT:
                    bound = tl.where(seen, _LARGEST_EXPONENT, _LOG2_SATURATION)
                elif POLICY:
                    bound = tl.where(seen, 0.0, _LOG2_SATURATION)
                else:
                    bound = tl.zeros([BLOCK, TILE], tl.float32)
                exponent = tl.minimum(exponent, bound, propagate_nan=tl.PropagateNan.ALL)
                e = tl.exp2(exponent)
                dm = e * (dp - row_delta)
                if POLICY:
                    free = tl.where(rank[:, None] == other[None, :], 0.0, dm)  # M_ii is fixed
                    sum_p += tl.sum(free * p_other[None, :], 1)
                    sum_s += tl.sum(free * s_other[None, :], 1)
                if phase == 1 or not POLICY:
                    if SOFT:
                        e *= weights
                        dm *= weights
                    if POLICY or SOFT or phase != 1:
                        e = tl.where(seen, e, 0.0)
                        dm = tl.where(seen, dm, 0.0)
                    acc_a = tl.dot(dm.to(a.dtype), a_other, acc_a, input_precision=PRECISION)
                    if OWN_KEYS:
                        acc_b = tl.dot(e.to(a.dtype), b_other, acc_b, input_precision=PRECISION)

    # Of padding nothing but zeros.
    result_a = tl.where(exists[:, None], acc_a * (scale / _LOG2_E), 0.0)
    store_rows(grad_a, token, grad_n, rank < N, result_a, D, BD)
    if OWN_KEYS:
        store_rows(grad_b, token, grad_n, rank < N, tl.where(exists[:, None], acc_b, 0.0), D, BD)
    if POLICY:
        planes = partials + (2 * N if OWN_KEYS else 0)
        tl.store(planes + token, tl.where(exists, sum_s, 0.0), mask=rank < N)
        tl.store(planes + N + token, tl.where(exists, sum_p, 0.0), mask=rank < N)


@triton.jit
def backward_kernel(
    grad_out, grad_out_b, grad_out_h, grad_out_n,
    q, q_b, q_h, q_n,
    k, k_b, k_h, k_n,
    v, v_b, v_h, v_n,
    grad_q, grad_k, grad_v, grad_b, grad_h, grad_n, partials, lse, delta, sorted_tokens, bounds, policy,
    H, GROUP, N, scale,
    D: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFT: tl.constexpr, POLICY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program for every block of keys and for every block of queries of every head. `scale` is in units of log 2."""
    blocks = tl.cdiv(N, BLOCK)
    head = (tl.program_id(0) // (2 * blocks)).to(tl.int64)
    block = tl.program_id(0) % (2 * blocks)
    b, h = head // H, head % H
    grad_out += b * grad_out_b + h * grad_out_h
    q += b * q_b + h * q_h
    k += b * k_b + h // GROUP * k_h
    v += b * v_b + h // GROUP * v_h
    result = b * grad_b + h * grad_h
    lse += head * N
    delta += head * N
    if POLICY:
        partials += head * _PLANES * N
    if SOFT:
        policy += b * N * 3
    if sorted_tokens is not None:
        sorted_tokens += b * N
        bounds += 3 * b
    if block < blocks:
        sweep(
            k, k_n, v, v_n, q, q_n, grad_out, grad_out_n,
            grad_k + result, grad_v + result, partials, lse, delta, sorted_tokens, bounds, policy,
            block * BLOCK, N, grad_n, scale,
            True, D, BD, BLOCK, TILE, SOFT, POLICY, PRECISION,
        )  # fmt: skip
    else:
        sweep(
            q, q_n, grad_out, grad_out_n, k, k_n, v, v_n,
            grad_q + result, None, partials, lse, delta, sorted_tokens, bounds, policy,
            (block - blocks) * BLOCK, N, grad_n, scale,
            False, D, BD, BLOCK, TILE, SOFT, POLICY, PRECISION,
        )  # fmt: skip


@triton.jit
def policy_kernel(partials, grad_policy, H, N, ROWS: tl.constexpr):
    """grad_policy (B, N, 3) = -(sum of the planes of all heads, in their order), and 0 for A."""
    blocks = tl.cdiv(N, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)  # [ROWS]
    exists = token < N
    grad_p = tl.zeros([ROWS], tl.float32)
    grad_s = tl.zeros([ROWS], tl.float32)
    for h in range(0, H):
        planes = partials + (b * H + h) * _PLANES * N + token
        grad_p -= tl.load(planes, mask=exists, other=0.0) + tl.load(planes + 2 * N, mask=exists, other=0.0)
        grad_s -= tl.load(planes + N, mask=exists, other=0.0) + tl.load(planes + 3 * N, mask=exists, other=0.0)
    row = grad_policy + (b * N + token) * 3
    tl.store(row, grad_p, mask=exists)
    tl.store(row + 1, grad_s, mask=exists)
    tl.store(row + 2, tl.zeros([ROWS], tl.float32), mask=exists)


def backward(
    grads: Sequence[Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    categories: Tensor | None,
    soft_policy: Tensor | None,
    scale: float,
    policy_grad: bool,
) -> Tensor:
    """The operator `grm_kernels::triton_backward`: see ops.py. Fills `grads`, which have the same strides."""
    grad_out, q, k, v, out = ops.with_adjacent_channels(grad_out, q, k, v, out)
    b, h, n, d = q.shape
    grad_policy = torch.empty((b, n, 3) if policy_grad else (0,), dtype=torch.float32, device=q.device)
    if q.numel() == 0:
        return grad_policy.zero_()
    soft = soft_policy is not None
    kind = config.kind_of(q.dtype)
    tiles = config.configuration("backward", kind, device.capability(q.device), d)
    bd = triton.next_power_of_2(d)
    delta = torch.empty_like(lse)
    partials = torch.empty((b, h, _PLANES.value, n), dtype=torch.float32, device=q.device) if policy_grad else None
    with device.current(q):
        sorted_tokens, bounds = (None, None) if categories is None else order.empty_order(categories)
        prologue_kernel[((0 if categories is None else b) + b * h * triton.cdiv(n, _ROWS),)](
            out, *out.stride()[:3],
            grad_out, *grad_out.stride()[:3],
            None if grad_lse is None else grad_lse.contiguous(), delta,
            categories, *((0, 0) if categories is None else categories.stride()), sorted_tokens, bounds,
            b, h, n,
            D=d, BD=bd, ROWS=_ROWS, CHUNK=order.chunk(n),
        )  # fmt: skip
        backward_kernel[(2 * b * h * triton.cdiv(n, tiles.block),)](
            grad_out, *grad_out.stride()[:3],
            q, *q.stride()[:3],
            k, *k.stride()[:3],
            v, *v.stride()[:3],
            *grads, *grads[0].stride()[:3],
            partials, lse, delta, sorted_tokens, bounds, None if soft_policy is None else soft_policy.contiguous(),
            h, h // k.shape[1], n, scale * constants.LOG2_E,
            D=d, BD=bd, BLOCK=tiles.block, TILE=tiles.tile,
            SOFT=soft, POLICY=policy_grad, PRECISION="tf32" if kind == "tf32" else "ieee",
            num_warps=tiles.warps, num_stages=tiles.stages, maxnreg=tiles.registers,
        )  # fmt: skip
        if policy_grad:
            policy_kernel[(b * triton.cdiv(n, _ROWS),)](partials, grad_policy, h, n, ROWS=_ROWS)
    return grad_policy
