"""The category order T | A | S on the device, as a Triton function and as a kernel of its own."""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Most tokens that are sorted in one step; longer images take several.
LARGEST_CHUNK = 1024


@triton.jit
def sort_image(source, categories_n, target, N, CHUNK: tl.constexpr):
    """Stable counting sort of the N categories of an image: target[rank] = token. Returns nT, nT + nA, n.

    n tokens count; padding has the ranks behind them.
    """
    n_t = 0
    n_s = 0
    n = N
    for start in range(0, N, CHUNK):
        token = start + tl.arange(0, CHUNK)  # [CHUNK]
        category = tl.load(source + token.to(tl.int64) * categories_n, mask=token < N, other=2)
        n_t += tl.sum((category == 0).to(tl.int32), 0)
        n_s += tl.sum((category == 1).to(tl.int32), 0)
        n -= tl.sum((category == 3).to(tl.int32), 0)

    next_t = 0
    next_a = n_t
    next_s = n - n_s
    next_padding = n
    for start in range(0, N, CHUNK):
        token = start + tl.arange(0, CHUNK)
        exists = token < N
        category = tl.load(source + token.to(tl.int64) * categories_n, mask=exists, other=2)
        # Any value above 3 counts as A, so that every token has a rank.
        is_t = (category == 0).to(tl.int32)
        is_s = (category == 1).to(tl.int32)
        is_padding = (category == 3).to(tl.int32)
        is_a = exists.to(tl.int32) - is_t - is_s - is_padding
        rank_t = next_t + tl.cumsum(is_t, 0) - 1
        rank_s = next_s + tl.cumsum(is_s, 0) - 1
        rank_a = next_a + tl.cumsum(is_a, 0) - 1
        rank_padding = next_padding + tl.cumsum(is_padding, 0) - 1
        rank = tl.where(is_t == 1, rank_t, tl.where(is_s == 1, rank_s, rank_a))
        rank = tl.where(is_padding == 1, rank_padding, rank)
        tl.store(target + rank, token, mask=exists)
        next_t += tl.sum(is_t, 0)
        next_s += tl.sum(is_s, 0)
        next_a += tl.sum(is_a, 0)
        next_padding += tl.sum(is_padding, 0)
    return n_t, n - n_s, n


@triton.jit
def write_order(categories, categories_b, categories_n, order, bounds, b, N, CHUNK: tl.constexpr):
    """Sorts the tokens of image b: row b of `order`, and bounds[b] = (nT, nT + nA, n)."""
    n_t, n_ta, n = sort_image(categories + b * categories_b, categories_n, order + b * N, N, CHUNK)
    tl.store(bounds + 3 * b, n_t)
    tl.store(bounds + 3 * b + 1, n_ta)
    tl.store(bounds + 3 * b + 2, n)


@triton.jit
def order_kernel(categories, categories_b, categories_n, order, bounds, N, CHUNK: tl.constexpr):
    """One program for every image."""
    b = tl.program_id(0).to(tl.int64)
    write_order(categories, categories_b, categories_n, order, bounds, b, N, CHUNK)


def empty_order(categories: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised (order, bounds) for `categories` (B, N), as `sort` returns them."""
    b, n = categories.shape
    return (
        torch.empty((b, n), dtype=torch.int32, device=categories.device),
        torch.empty((b, 3), dtype=torch.int32, device=categories.device),
    )


def chunk(n: int) -> int:
    """How many of N tokens are sorted in one step."""
    return min(LARGEST_CHUNK, max(32, triton.next_power_of_2(n)))


def sort(categories: Tensor) -> tuple[Tensor, Tensor]:
    """Stable order of the tokens by category, T | A | S.

    Args:
        categories: (B, N) uint8, any strides. A value above 3 counts as A.

    Returns:
        order: (B, N) int32; ``order[b, r]`` is the index of the token at rank r. Padding comes last.
        bounds: (B, 3) int32; the ranks at which A, S and padding begin: nT, nT + nA, nT + nA + nS.

    """
    order, bounds = empty_order(categories)
    b, n = categories.shape
    order_kernel[(b,)](categories, *categories.stride(), order, bounds, n, CHUNK=chunk(n))
    return order, bounds
