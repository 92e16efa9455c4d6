"""What the template attends to: the attention of chosen layers, recomputed for looking at."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grm_kernels import Category, category_attention

from ..model import GRM, Division


@torch.inference_mode()
def template_attention(model: GRM, template: Tensor, search: Tensor, layers: Sequence[int]) -> NDArray[np.float32]:
    """Attention from the template's tokens to those of the search region.

    P_ij = M_ij exp(scale q_i . k_j - lse_i) for i in the template and j in the search region, with the operator's lse;
    only this block of P is formed, of the chosen layers only.

    Args:
        model: any GRM.
        template: (B, 3, h, w) images or (B, N, width) tokens, as of `GRM.forward`.
        search: (B, 3, H, W) images, likewise.
        layers: counted from 1.

    Returns:
        (B, len(layers), F, F): mean over heads and template tokens. What is missing from a sum of 1 is the attention
        that stays in the template.

    """
    maps: dict[int, Tensor] = {}

    def look(number: int, attention: nn.Module, x: Tensor, division: Division) -> None:
        q, k, v = attention.heads_of(x)
        categories, policy = attention.with_template(division)
        soft = categories is None
        _, lse = category_attention(q, k, v, categories, policy, soft=soft, backend=attention.backend, return_lse=True)
        separate = policy[..., Category.S] if soft else (categories == Category.S)
        n = attention.template_tokens
        scores = q[:, :, :n].float() @ k[:, :, n:].float().transpose(2, 3) * q.shape[-1] ** -0.5
        weights = torch.exp(scores - lse[:, :, :n, None]) * (1 - separate[:, None, None, n:].float())
        maps[number] = weights.mean(dim=(1, 2))

    handles = [
        model.encoder.layers[number - 1].attention.register_forward_hook(
            lambda module, args, output, number=number: look(number, module, args[0], output[1])
        )
        for number in layers
    ]
    try:
        model(template, search)
    finally:
        for handle in handles:
            handle.remove()
    side = model.config.search_side
    return torch.stack([maps[number] for number in layers], dim=1).unflatten(2, (side, side)).cpu().numpy()
