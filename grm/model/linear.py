"""Linear layers with what follows them."""

import torch.nn.functional as F
from torch import Tensor, nn


class LinearGELU(nn.Linear):
    """A linear layer followed by GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.gelu(super().forward(x))
