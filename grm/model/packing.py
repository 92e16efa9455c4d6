"""Linear layers with packed weights, for inference on a CPU. All calls of torch's private operators are in here.

torch.nn.Linear gives float32 products to a library that leaves half of the AVX-512 units of some CPUs idle, and orders
the weights anew in every call. oneDNN, which comes with torch, does neither when it may pack the weights once.
"""

import torch
from torch import Tensor, nn

from .linear import LinearGELU, PairLinearGELU


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

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., inputs) to (..., outputs), with another bias (outputs,) if given."""
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, self.post, [], "none")


class PackedPairLinearGELU(nn.Module):
    """`PairLinearGELU` with packed weights.

    Args:
        layer: to be packed.
        rows: as of `PackedLinear`.

    """

    def __init__(self, layer: PairLinearGELU, rows: int):
        super().__init__()
        for_x, for_shared = layer.weight.chunk(2, dim=1)
        self.for_x = PackedLinear(for_x, None, rows, gelu=True)
        self.for_shared = PackedLinear(for_shared, layer.bias, 1)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """(B, N, width) and (B, width) to (B, N, outputs)."""
        # To the tokens of one sample, what they share is a bias.
        biases = self.for_shared(shared).unbind(0)
        outputs = [self.for_x(tokens, bias) for tokens, bias in zip(x.split(1), biases, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


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
            if isinstance(child, PairLinearGELU):
                packed = PackedPairLinearGELU(child, rows)
            else:
                packed = PackedLinear(child.weight, child.bias, rows, gelu=isinstance(child, LinearGELU))
            setattr(module, name, packed)


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
