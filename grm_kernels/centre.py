"""What a centre head does besides its 3x3 convolutions: on a GPU an operator between two of them, and one at the end.

For inference. A head in PyTorch takes a dozen small kernels for the box alone.
"""

import torch
from torch import Tensor

from . import ops, triton

#: Cells on a side of the features that `find_centre` can serve: a program holds all of an image's.
MAX_SIDE = 64


def serves(features: Tensor, weight: Tensor, backend: str | None = None) -> bool:
    """Whether the operators can serve a head for features (B, C, F, F) with such weights.

    Args:
        features: what the head reads.
        weight: any of the head's.
        backend: as of `grm_kernels.triton.serves_inference`.

    """
    return triton.serves_inference(backend, weight, features) and features.shape[-1] <= MAX_SIDE


def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    """max(0, x + bias) of x (B, C, h, w) and bias (C,), computed in float32, in the dtype and memory format of x."""
    return torch.ops.grm_kernels.triton_bias_relu(x, bias)


def find_centre(
    x: Tensor, bias: Tensor, weight: Tensor, last_bias: Tensor, window: Tensor | None, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The end of a head of three branches with C channels and two outputs each, in their order: score and one that is
    not read, width and height, dx and dy.

        h = max(0, x + bias),   outputs of branch i = W_i h_i + b_i

    The score, width and height are sigmoids of the outputs. The box is that of the cell (column, row) with the highest
    score times window, the first of several: ((column + dx) / F, (row + dy) / F, width, height).

    Args:
        x: (B, 3 C, F, F), what the last 3x3 convolution gave without its bias.
        bias: (3 C,), that bias, of x's dtype like the rest.
        weight: (6, C), of the 1x1 convolution: two rows for each branch.
        last_bias: (6,).
        window: (F, F) or None for ones.
        margin: scores, widths and heights stay so far from 0 and 1.

    Returns:
        maps: (B, 5, F, F) float32: score, width, height, dx, dy.
        boxes: (B, 4) float32.
        scores: (B,) float32, of the cell, without the window.

    """
    return torch.ops.grm_kernels.triton_find_centre(x, bias, weight, last_bias, window, margin)


def _fake_bias_relu(x, bias):
    return torch.empty_like(x)


def _fake_find_centre(x, bias, weight, last_bias, window, margin):
    b, _, side, _ = x.shape
    return tuple(x.new_empty(shape, dtype=torch.float32) for shape in ((b, 5, side, side), (b, 4), (b,)))


def _triton_bias_relu(*args):
    from .triton import centre

    return centre.bias_relu(*args)


def _triton_find_centre(*args):
    from .triton import centre

    return centre.find_centre(*args)


for _name, _schema, _implementation, _fake in (
    ("triton_bias_relu", "(Tensor x, Tensor bias) -> Tensor", _triton_bias_relu, _fake_bias_relu),
    (
        "triton_find_centre",
        "(Tensor x, Tensor bias, Tensor weight, Tensor last_bias, Tensor? window, float margin)"
        " -> (Tensor maps, Tensor boxes, Tensor scores)",
        _triton_find_centre,
        _fake_find_centre,
    ),
):
    ops.LIBRARY.define(f"{_name}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"grm_kernels::{_name}", _fake, lib=ops.LIBRARY)
    for _key in ("CUDA", "CPU"):
        ops.LIBRARY.impl(_name, _implementation, _key)
