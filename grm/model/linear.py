"""Linear layers with what follows them."""

import torch.nn.functional as F
from torch import Tensor, nn


class LinearGELU(nn.Linear):
    """A linear layer followed by GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.gelu(super().forward(x))


class PairLinearGELU(nn.Linear):
    """A linear layer on [x; shared] for x of N tokens and what they share, followed by GELU.

    The product with the second half of the weights is the same for all tokens, and made once.

    Args:
        width: of x, and of what is shared.
        outputs: width of the result.

    """

    def __init__(self, width: int, outputs: int):
        super().__init__(2 * width, outputs)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """(B, N, width) and (B, width) to (B, N, outputs)."""
        for_x, for_shared = self.weight.split(shared.shape[-1], dim=1)
        return F.gelu(F.linear(x, for_x) + F.linear(shared, for_shared, self.bias).unsqueeze(1))
