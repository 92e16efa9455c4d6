"""Linear layers with packed weights, for inference on a CPU. All calls of torch's private operators are in here.

torch.nn.Linear gives float32 products to a library that leaves half of the AVX-512 units of some CPUs idle, and orders
the weights anew in every call. oneDNN, which comes with torch, does neither when it may pack the weights once.
"""

import torch
from torch import Tensor, nn

from .linear import LinearGELU


class PackedLinear(nn.Module):
    """A linear layer for inference whose weights are packed for oneDNN, with GELU in the same call if wanted.

    Args:
        weight: (outputs, inputs), float32 or bfloat16, on the CPU.
        bias: (outputs,) or None.
        rows: how many the products will mostly have.
        gelu: whether GELU follows.

    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, gelu: bool = False):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
        self.bias = None if bias is None else bias.detach()
        self.post = "gelu" if gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.post, [], "none")


def pack_linear_layers(model: nn.Module, rows: int) -> None:
    """Replaces the linear layers of a model by packed ones, in place and for good; where it cannot, it leaves them.

    Args:
        model: in evaluation mode.
        rows: as of `PackedLinear`.

    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if not isinstance(child, nn.Linear) or not _can_be_packed(child.weight):
                continue
            setattr(module, name, PackedLinear(child.weight, child.bias, rows, gelu=isinstance(child, LinearGELU)))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 have instructions there. Without them they can take ten times float32's time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _packs() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _packs() -> bool:
    """Whether this torch has oneDNN, and the operators that this file asks it for: they are not public."""
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)


def _can_be_packed(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not _packs():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_fast_bfloat16(weight.device))
