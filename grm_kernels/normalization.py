"""A residual connection with the layer normalisation that reads it: on a GPU one operator in place of two."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops, triton

_MAX_CHANNELS = 8192


def add_layer_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The sum s of x and y, and (s - mean(s)) / sqrt(var(s) + epsilon) * weight + bias, over the channels.

    Args:
        x, y: (B, N, C), of one floating-point dtype.
        weight, bias: (C,), of that dtype.
        epsilon: added to the variance.
        backend: "triton" and "reference" stand for the operator and for PyTorch; anything else for the first on a GPU
            and for the second elsewhere. Where a gradient is wanted PyTorch serves.

    Returns:
        Both (B, N, C), in the dtype of x. The normalisation reads the rounded sum, and computes in float32.

    """
    tensors = (x, y, weight, bias)
    if (
        triton.serves_inference(backend, weight, bias, x, y)
        and all(tensor.dtype == x.dtype for tensor in tensors)
        and x.shape == y.shape
        and x.shape[2] <= _MAX_CHANNELS
    ):
        return torch.ops.grm_kernels.triton_add_layer_norm(*tensors, epsilon)
    total = x + y
    return total, F.layer_norm(total, weight.shape, weight, bias, epsilon)


def _fake(x, y, weight, bias, epsilon):
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _triton(*args):
    from .triton import normalization

    return normalization.add_layer_norm(*args)


ops.LIBRARY.define(
    "triton_add_layer_norm(Tensor x, Tensor y, Tensor weight, Tensor bias, float epsilon)"
    " -> (Tensor total, Tensor normalised)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.register_fake("grm_kernels::triton_add_layer_norm", _fake, lib=ops.LIBRARY)
for _key in ("CUDA", "CPU"):
    ops.LIBRARY.impl("triton_add_layer_norm", _triton, _key)
