"""A residual connection with the layer normalisation that reads it. Not yet run on hardware."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device, ops

# Tokens of a program: one for each of its warps.
_ROWS = 4


@triton.jit
def add_layer_norm_kernel(
    x, x_b, x_n, y, y_b, y_n, weight, bias, total, normalised,
    COUNT, N, C, epsilon,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A block of the COUNT tokens of all images, N each."""
    token = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)  # [ROWS]
    b, n = token // N, token % N
    channel = tl.arange(0, WIDTH)  # [WIDTH]
    exists = (token < COUNT)[:, None] & (channel < C)[None, :]  # [ROWS, WIDTH]
    first = tl.load(x + (b * x_b + n * x_n)[:, None] + channel[None, :], mask=exists, other=0.0).to(tl.float32)
    second = tl.load(y + (b * y_b + n * y_n)[:, None] + channel[None, :], mask=exists, other=0.0).to(tl.float32)
    # What is normalised is what is stored.
    rounded = (first + second).to(total.dtype.element_ty)
    place = token[:, None] * C + channel[None, :]
    tl.store(total + place, rounded, mask=exists)
    s = rounded.to(tl.float32)
    mean = tl.sum(s, 1) / C
    centred = tl.where(exists, s - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / C
    scale = tl.load(weight + channel, mask=channel < C, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)
    result = centred * (1.0 / tl.sqrt(variance + epsilon))[:, None] * scale[None, :] + shift[None, :]
    tl.store(normalised + place, result.to(normalised.dtype.element_ty), mask=exists)


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The operator `grm_kernels::triton_add_layer_norm`: see grm_kernels/normalization.py."""
    x, y = ops.with_adjacent_channels(x, y)
    b, n, c = x.shape
    total, normalised = (torch.empty((b, n, c), dtype=x.dtype, device=x.device) for _ in range(2))
    if total.numel():
        with device.current(x):
            add_layer_norm_kernel[(triton.cdiv(b * n, _ROWS),)](
                x, *x.stride()[:2], y, *y.stride()[:2], weight.contiguous(), bias.contiguous(), total, normalised,
                b * n, n, c, epsilon,
                ROWS=_ROWS, WIDTH=triton.next_power_of_2(c),
            )  # fmt: skip
    return total, normalised
