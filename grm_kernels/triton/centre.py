"""What the centre head does besides its convolutions. Not yet run on hardware."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device

# Elements of a program that adds a bias; those that are read at a time of an image's features.
_BLOCK = 1024
_TILE = 16384


@triton.jit
def relu(x):
    """max(x, 0), and NaN of NaN."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def bias_relu_kernel(
    x, x_b, x_c, x_n, bias, out, out_b, out_c, out_n,
    COUNT, C, N,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of the COUNT elements of all images, N cells of C channels each."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    exists = i < COUNT
    channel, cell, b = i % C, i // C % N, i // C // N
    value = tl.load(x + b * x_b + channel * x_c + cell * x_n, mask=exists, other=0.0).to(tl.float32)
    value = relu(value + tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32))
    tl.store(out + b * out_b + channel * out_c + cell * out_n, value.to(out.dtype.element_ty), mask=exists)


@triton.jit
def outputs_of_branch(
    x, x_c, x_n, bias, weight, last_bias, branch, C, N, CELLS: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """Both outputs [CELLS] of a branch, float32."""
    cell = tl.arange(0, CELLS)
    first = tl.zeros([CELLS], tl.float32)
    second = tl.zeros([CELLS], tl.float32)
    for start in range(0, C, DEPTH):
        c = start + tl.arange(0, DEPTH)  # [DEPTH]
        channel = branch * C + c
        exists = (cell < N)[:, None] & (c < C)[None, :]
        value = tl.load(x + channel[None, :] * x_c + cell[:, None] * x_n, mask=exists, other=0.0).to(tl.float32)
        value = relu(value + tl.load(bias + channel, mask=c < C, other=0.0).to(tl.float32)[None, :])
        rows = weight + 2 * branch * C + c
        first += tl.sum(value * tl.load(rows, mask=c < C, other=0.0).to(tl.float32)[None, :], 1)
        second += tl.sum(value * tl.load(rows + C, mask=c < C, other=0.0).to(tl.float32)[None, :], 1)
    first += tl.load(last_bias + 2 * branch).to(tl.float32)
    second += tl.load(last_bias + 2 * branch + 1).to(tl.float32)
    return first, second


@triton.jit
def bounded(x, margin):
    """sigmoid(x), and at least `margin` from 0 and 1."""
    result = 1.0 / (1.0 + tl.exp(-x))
    result = tl.where(result < margin, margin, result)
    return tl.where(result > 1.0 - margin, 1.0 - margin, result)


@triton.jit
def centre_kernel(
    x, x_b, x_c, x_n, bias, weight, last_bias, window, maps, boxes, scores,
    C, SIDE, margin,
    CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program for every image: its maps, and the box at the cell whose score leads."""
    b = tl.program_id(0).to(tl.int64)
    x += b * x_b
    N = SIDE * SIDE
    cell = tl.arange(0, CELLS)
    exists = cell < N
    score, _ = outputs_of_branch(x, x_c, x_n, bias, weight, last_bias, 0, C, N, CELLS, DEPTH)
    width, height = outputs_of_branch(x, x_c, x_n, bias, weight, last_bias, 1, C, N, CELLS, DEPTH)
    dx, dy = outputs_of_branch(x, x_c, x_n, bias, weight, last_bias, 2, C, N, CELLS, DEPTH)
    score, width, height = bounded(score, margin), bounded(width, margin), bounded(height, margin)
    target = maps + b * 5 * N + cell
    tl.store(target, score, mask=exists)
    tl.store(target + N, width, mask=exists)
    tl.store(target + 2 * N, height, mask=exists)
    tl.store(target + 3 * N, dx, mask=exists)
    tl.store(target + 4 * N, dy, mask=exists)

    ranked = score
    if window is not None:
        ranked *= tl.load(window + cell, mask=exists, other=0.0)
    ranked = tl.where(ranked == ranked, ranked, float("inf"))  # NaN leads
    best = tl.argmax(tl.where(exists, ranked, -float("inf")), 0)
    chosen = cell == best
    tl.store(scores + b, tl.sum(tl.where(chosen, score, 0.0), 0))
    tl.store(boxes + 4 * b, (best % SIDE + tl.sum(tl.where(chosen, dx, 0.0), 0)) / SIDE)
    tl.store(boxes + 4 * b + 1, (best // SIDE + tl.sum(tl.where(chosen, dy, 0.0), 0)) / SIDE)
    tl.store(boxes + 4 * b + 2, tl.sum(tl.where(chosen, width, 0.0), 0))
    tl.store(boxes + 4 * b + 3, tl.sum(tl.where(chosen, height, 0.0), 0))


def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    """The operator `grm_kernels::triton_bias_relu`: see grm_kernels/centre.py."""
    out = torch.empty_like(x)
    if x.numel():
        # Views, of what lies row by row and of channels last; of other orders, copies.
        cells, target = x.flatten(2), out.flatten(2)
        with device.current(x):
            bias_relu_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
                cells, *cells.stride(), bias.contiguous(), target, *target.stride(),
                x.numel(), x.shape[1], cells.shape[2],
                BLOCK=_BLOCK,
            )  # fmt: skip
        if target.data_ptr() != out.data_ptr():
            out.copy_(target.view(out.shape))
    return out


def find_centre(
    x: Tensor, bias: Tensor, weight: Tensor, last_bias: Tensor, window: Tensor | None, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `grm_kernels::triton_find_centre`: see grm_kernels/centre.py."""
    b, channels, side, _ = x.shape
    maps = torch.empty((b, 5, side, side), dtype=torch.float32, device=x.device)
    boxes, scores = (torch.empty(shape, dtype=torch.float32, device=x.device) for shape in ((b, 4), (b,)))
    if b:
        cells = x.flatten(2)
        padded = triton.next_power_of_2(side * side)
        with device.current(x):
            centre_kernel[(b,)](
                cells, *cells.stride(), bias.contiguous(), weight.contiguous(), last_bias.contiguous(),
                None if window is None else window.float().contiguous(), maps, boxes, scores,
                channels // 3, side, margin,
                CELLS=padded, DEPTH=max(1, min(16, _TILE // padded)), num_warps=8,
            )  # fmt: skip
    return maps, boxes, scores
