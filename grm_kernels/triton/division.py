"""The division of search tokens: the pooled template's part of the first layer, then everything down to the category.

Two kernels, and a third where ranks decide. Not yet run on hardware.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device, ops
from ..categories import Category
from . import config

_T = tl.constexpr(int(Category.T))
_SQRT_HALF = tl.constexpr(0.5**0.5)

# Search tokens and inner channels of a step; outputs of the first layer of a program. Sixteen rows keep the accumulator
# of 256 outputs in 32 registers of each of 128 threads.
_ROWS = 16
_DEPTH = 32
_OUTPUTS = 32


@triton.jit
def gelu(x):
    """x Phi(x)."""
    return x * 0.5 * (1.0 + tl.erf(x * _SQRT_HALF))


@triton.jit
def pool_kernel(
    template, template_b, template_n, weight, weight_n, bias, context,
    TOKENS, C, H1,
    AVERAGE: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """context (B, H1) float32 = W_t pool(template) + b1; one program for every block of outputs of an image."""
    blocks = tl.cdiv(H1, OUTPUTS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    output = tl.program_id(0) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)  # [OUTPUTS]
    template += b * template_b
    total = tl.zeros([OUTPUTS], tl.float32)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)  # [CHANNELS]
        pooled = tl.zeros([CHANNELS], tl.float32)
        broken = tl.zeros([CHANNELS], tl.int32)
        if not AVERAGE:
            pooled += -float("inf")
        for first in range(0, TOKENS, TILE):
            token = first + tl.arange(0, TILE)
            exists = (token < TOKENS)[:, None] & (channel < C)[None, :]
            address = template + token.to(tl.int64)[:, None] * template_n + channel[None, :]
            if AVERAGE:
                pooled += tl.sum(tl.load(address, mask=exists, other=0.0).to(tl.float32), 0)
            else:
                x = tl.load(address, mask=exists, other=-float("inf")).to(tl.float32)
                pooled = tl.maximum(pooled, tl.max(x, 0))
                broken |= tl.max((x != x).to(tl.int32), 0)
        if AVERAGE:
            pooled /= TOKENS
        pooled = tl.where(broken > 0, float("nan"), pooled)  # a maximum passes NaN over
        pooled = tl.where(channel < C, pooled, 0.0)
        exists = (output < H1)[:, None] & (channel < C)[None, :]
        rows = tl.load(weight + output.to(tl.int64)[:, None] * weight_n + channel[None, :], mask=exists, other=0.0)
        total += tl.sum(rows.to(tl.float32) * pooled[None, :], 1)
    there = output < H1
    total += tl.load(bias + output, mask=there, other=0.0).to(tl.float32)
    tl.store(context + b * H1 + output, total, mask=there)


@triton.jit
def divide_kernel(
    projected, projected_b, projected_n, context,
    second, second_n, second_bias, third, third_n, third_bias, columns,
    categories, logits,
    N_TEMPLATE, N_SEARCH, H1, H2, margin,
    K: tl.constexpr, RANKED: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    TEMPLATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits and, unless RANKED, categories of a block of search tokens; the first block writes the template's."""
    blocks = tl.cdiv(N_SEARCH, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    token = block * ROWS + tl.arange(0, ROWS)  # [ROWS]
    exists = token < N_SEARCH
    output = tl.arange(0, WIDTH)  # [WIDTH]
    there = output < H2
    rows = projected + b * projected_b + token.to(tl.int64)[:, None] * projected_n
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(0, H1, DEPTH):
        k = start + tl.arange(0, DEPTH)  # [DEPTH]
        x = tl.load(rows + k[None, :], mask=exists[:, None] & (k < H1)[None, :], other=0.0)  # [ROWS, DEPTH]
        x = gelu(x.to(tl.float32) + tl.load(context + b * H1 + k, mask=k < H1, other=0.0)[None, :])
        weight = tl.load(
            second + output.to(tl.int64)[None, :] * second_n + k[:, None],
            mask=there[None, :] & (k < H1)[:, None],
            other=0.0,
        )  # [DEPTH, WIDTH]
        acc = tl.dot(x.to(weight.dtype), weight, acc, input_precision=PRECISION)
    hidden = gelu(acc + tl.load(second_bias + output, mask=there, other=0.0).to(tl.float32)[None, :])

    target = logits + (b * N_SEARCH + token) * K
    best = tl.zeros([ROWS], tl.float32)
    column = tl.zeros([ROWS], tl.int32)
    for c in tl.static_range(K):
        weight = tl.load(third + c * third_n + output, mask=there, other=0.0).to(tl.float32)
        logit = tl.sum(hidden * weight[None, :], 1) + tl.load(third_bias + c).to(tl.float32)
        tl.store(target + c, logit, mask=exists)
        if c == 0:
            best = logit
        elif K == 2:
            column = (logit - best > margin).to(tl.int32)
        else:
            better = (logit > best) | ((logit != logit) & (best == best))  # a NaN counts as the largest
            column = tl.where(better, c, column)
            best = tl.where(better, logit, best)
    of_image = categories + b * (N_TEMPLATE + N_SEARCH)
    if not RANKED:
        tl.store(of_image + N_TEMPLATE + token, tl.load(columns + column), mask=exists)
    if block == 0:
        for first in range(0, N_TEMPLATE, TEMPLATE):
            other = first + tl.arange(0, TEMPLATE)
            tl.store(of_image + other, tl.full([TEMPLATE], _T, tl.uint8), mask=other < N_TEMPLATE)


@triton.jit
def rank_kernel(
    logits, category_of_rank, categories, N_TEMPLATE, N_SEARCH, ROWS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Categories of a block of search tokens by the rank of their lead, of which there are two columns.

    A token's rank is the number of those that lead by more, or by as much and stand before it.
    """
    blocks = tl.cdiv(N_SEARCH, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)  # [ROWS]
    exists = token < N_SEARCH
    source = logits + b * N_SEARCH * 2
    own = tl.load(source + 2 * token + 1, mask=exists, other=0.0) - tl.load(source + 2 * token, mask=exists, other=0.0)
    own = tl.where(own == own, own, float("inf"))  # NaN leads
    rank = tl.zeros([ROWS], tl.int32)
    for first in range(0, N_SEARCH, TILE):
        other = first + tl.arange(0, TILE)  # [TILE]
        there = other < N_SEARCH
        lead = tl.load(source + 2 * other + 1, mask=there, other=0.0) - tl.load(
            source + 2 * other, mask=there, other=0.0
        )
        lead = tl.where(lead == lead, lead, float("inf"))
        before = (lead[None, :] > own[:, None]) | ((lead[None, :] == own[:, None]) & (other[None, :] < token[:, None]))
        rank += tl.sum((before & there[None, :]).to(tl.int32), 1)
    category = tl.load(category_of_rank + rank, mask=exists, other=0)
    tl.store(categories + b * (N_TEMPLATE + N_SEARCH) + N_TEMPLATE + token, category, mask=exists)


def divide(
    projected: Tensor,
    template: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    third: Tensor,
    third_bias: Tensor,
    columns: Tensor,
    category_of_rank: Tensor | None,
    average: bool,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """The operator `grm_kernels::triton_divide`: see grm_kernels/division.py."""
    projected, template, first, second, third = ops.with_adjacent_channels(projected, template, first, second, third)
    first_bias, second_bias, third_bias = (bias.contiguous() for bias in (first_bias, second_bias, third_bias))
    b, n_search, h1 = projected.shape
    _, n_template, c = template.shape
    h2, k = second.shape[0], len(columns)
    categories = torch.empty((b, n_template + n_search), dtype=torch.uint8, device=projected.device)
    logits = torch.empty((b, n_search, k), dtype=torch.float32, device=projected.device)
    context = torch.empty((b, h1), dtype=torch.float32, device=projected.device)
    if logits.numel() == 0:
        return categories.fill_(int(Category.T)), logits
    blocks = triton.cdiv(n_search, _ROWS)
    with device.current(projected):
        pool_kernel[(b * triton.cdiv(h1, _OUTPUTS),)](
            template, *template.stride()[:2], first, first.stride(0), first_bias, context,
            n_template, c, h1,
            AVERAGE=average, OUTPUTS=_OUTPUTS, CHANNELS=128, TILE=64, maxnreg=168,
        )  # fmt: skip
        divide_kernel[(b * blocks,)](
            projected, *projected.stride()[:2], context,
            second, second.stride(0), second_bias, third, third.stride(0), third_bias, columns.contiguous(),
            categories, logits,
            n_template, n_search, h1, h2, margin,
            K=k, RANKED=category_of_rank is not None, ROWS=_ROWS, DEPTH=_DEPTH,
            WIDTH=max(16, triton.next_power_of_2(h2)), TEMPLATE=64,
            PRECISION="tf32" if config.kind_of(projected.dtype) == "tf32" else "ieee", maxnreg=255,
        )  # fmt: skip
        if category_of_rank is not None:
            rank_kernel[(b * blocks,)](
                logits, category_of_rank.contiguous(), categories, n_template, n_search, ROWS=_ROWS, TILE=128
            )
    return categories, logits
