"""A residual connection with the layer normalisation that reads it. Not yet run on hardware."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device, ops


@triton.jit
def add_layer_norm_kernel(
    x, x_b, x_n, y, y_b, y_n, weight, bias, total, normalised,
    N, C, epsilon,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """One program for every token."""
    b = (tl.program_id(0) // N).to(tl.int64)
    n = tl.program_id(0) % N
    channel = tl.arange(0, WIDTH)  # [WIDTH]
    exists = channel < C
    first = tl.load(x + b * x_b + n * x_n + channel, mask=exists, other=0.0).to(tl.float32)
    second = tl.load(y + b * y_b + n * y_n + channel, mask=exists, other=0.0).to(tl.float32)
    # What is normalised is what is stored.
    rounded = (first + second).to(total.dtype.element_ty)
    row = (b * N + n) * C
    tl.store(total + row + channel, rounded, mask=exists)
    s = rounded.to(tl.float32)
    mean = tl.sum(s, 0) / C
    centred = tl.where(exists, s - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / C
    scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    result = centred * (1.0 / tl.sqrt(variance + epsilon)) * scale + shift
    tl.store(normalised + row + channel, result.to(normalised.dtype.element_ty), mask=exists)


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The operator `grm_kernels::triton_add_layer_norm`: see grm_kernels/normalization.py."""
    x, y = ops.with_adjacent_channels(x, y)
    b, n, c = x.shape
    total, normalised = (torch.empty((b, n, c), dtype=x.dtype, device=x.device) for _ in range(2))
    if total.numel():
        with device.current(x):
            add_layer_norm_kernel[(b * n,)](
                x, *x.stride()[:2], y, *y.stride()[:2], weight.contiguous(), bias.contiguous(), total, normalised,
                n, c, epsilon,
                WIDTH=triton.next_power_of_2(c),
            )  # fmt: skip
    return total, normalised
