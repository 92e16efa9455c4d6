"""GRM: encoder and centre head."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import ModelConfig, overridden_model
from ..errors import WeightsError
from .convolution import ConvolutionBlock
from .division import Division, TokenDivision
from .encoder import Attention, Encoder
from .head import CenterHead
from .packing import pack_linear_layers


class Prediction(NamedTuple):
    """What GRM says of a batch of B search regions of F x F cells; float32 (float64 for a model in it)."""

    #: (B, 4): centre x, centre y, width, height in sides of the search region; not clipped.
    boxes: Tensor
    #: (B,) in [1e-4, 1 - 1e-4]: the score map at the chosen cell, without the window.
    scores: Tensor
    #: (B, 1, F, F) in [1e-4, 1 - 1e-4].
    score_map: Tensor
    #: (B, 2, F, F) in [1e-4, 1 - 1e-4]: width and height.
    size_map: Tensor
    #: (B, 2, F, F): x and y in cells.
    offset_map: Tensor
    #: One for every layer, first to last.
    divisions: tuple[Division, ...]


class GRM(nn.Module):
    """The tracker's network (Gao, Zhou, Zhang, CVPR 2023), with new weights; see `grm.model.weights` for others.

    Args:
        config: sizes, variant and implementation.

    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.prepared = False
        self.encoder = Encoder(config)
        self.head = CenterHead(
            config.encoder.width, config.head.channels, config.head.score_prior, config.encoder.backend
        )

    def template_tokens(self, template: Tensor, box: Tensor | None = None) -> Tensor:
        """Tokens of templates, to be computed once for a target: (B, 3, h, w) as in `forward` to (B, N, width).

        Args:
            template: images as in `forward`.
            box: (B, 4) the target's in the template, as boxes are predicted; read with `ModelConfig.template_box` only.

        """
        _check_images("template", template, self.config.template.size)
        if self.config.template_box and (box is None or box.shape != (len(template), 4)):
            got = "none" if box is None else f"shape {tuple(box.shape)}"
            raise ValueError(f"template box: expected shape ({len(template)}, 4) with model.template_box, got {got}")
        return self.encoder.template_tokens(template, box)

    def forward(
        self, template: Tensor, search: Tensor, window: Tensor | None = None, template_box: Tensor | None = None
    ) -> Prediction:
        """Finds the targets of `template` in `search`.

        Args:
            template: (B, 3, h, w) images, RGB with ImageNet's mean and deviation taken out, of any float dtype; or the
                (B, N, width) of `template_tokens`.
            search: (B, 3, H, W), likewise normalised images.
            window: (F, F), multiplies the scores for the choice of the cell that gives the box.
            template_box: as of `template_tokens`; not with tokens, which were told it.

        Raises:
            ValueError: a shape is not the one that the configuration says.

        """
        tokens = self.template_tokens(template, template_box) if template.dim() == 4 else template
        _check_images("search", search, self.config.search.size)
        expected = (search.shape[0], self.config.template_tokens, self.config.encoder.width)
        if tokens.shape != expected:
            raise ValueError(f"template: expected tokens {expected} for this search, got shape {tuple(tokens.shape)}")
        features, divisions = self.encoder(tokens, self.encoder.search_tokens(search))
        side = self.config.search_side
        maps, boxes, scores = self.head(features.transpose(1, 2).unflatten(2, (side, side)), window)
        return Prediction(boxes, scores, *maps, divisions)

    def prepare_inference(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, *, pack: bool = True
    ) -> "GRM":
        """A copy in evaluation mode that computes the same, faster.

        The batch normalisations are folded into the convolutions before them, the last bias of the stem into the
        positions, the branches of the head are merged, and the search tokens' part of a division's first layer joins
        the product for q, k, v (on a CPU where it is small). On a CPU the weights of the linear layers are packed
        (`grm.model.packing`). The copy stays on its device and in its dtype, cannot be trained, and its weights are
        neither saved nor loaded: keep the original for that.

        Args:
            device: of the copy; None: as this model.
            dtype: of the copy; None: as this model.
            pack: whether a CPU's copy has packed weights. torch.compile cannot look into packed ones.

        Raises:
            RuntimeError: this is such a copy.

        """
        if self.prepared:
            raise RuntimeError("this model is prepared for inference; prepare the one it was prepared from")
        prepared = copy.deepcopy(self).to(device=device, dtype=dtype).eval().requires_grad_(False)
        for module in list(prepared.modules()):
            if isinstance(module, (ConvolutionBlock, Encoder)):
                module.fold()
            elif isinstance(module, TokenDivision):
                module.take_apart()
        for module in list(prepared.modules()):
            if isinstance(module, CenterHead):
                module.merge()
            elif isinstance(module, Attention) and module.fixed is None:
                if module.joins_cheaply or not (pack and module.qkv.weight.is_cpu):
                    module.join_division()
        if pack:
            pack_linear_layers(prepared, self.config.template_tokens + self.config.search_side**2)
        # The features come in this order from the encoder.
        prepared.to(memory_format=torch.channels_last)
        prepared.prepared = True
        return prepared

    def train(self, mode: bool = True) -> "GRM":
        """Sets training or evaluation mode, as of any module; a prepared model refuses to train."""
        if mode and self.prepared:
            raise RuntimeError("a model prepared for inference cannot be trained; train the one it was prepared from")
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "GRM":
        if self.prepared:
            raise RuntimeError("a prepared model stays as it is: give device and dtype to prepare_inference")
        return super()._apply(*args, **kwargs)


def reconfigured(model: GRM, overrides: Sequence[str]) -> GRM:
    """A copy of a model in evaluation mode, with its device and dtype, another configuration, and its weights so far as
    that has them.

    Args:
        model: not prepared for inference.
        overrides: as of `grm.config.load_config`: "model.encoder.attention=masked".

    Raises:
        ConfigError: the configuration with its overrides is not valid.
        WeightsError: it needs weights that the model does not have.

    """
    copied = GRM(overridden_model(model.config, overrides))
    weights = model.state_dict()
    if missing := [name for name in copied.state_dict() if name not in weights]:
        raise WeightsError(f"the model has no {missing[0]} ({len(missing)} weights missing), as {overrides} needs")
    copied.load_state_dict({name: weights[name] for name in copied.state_dict()})
    return copied.to(next(model.parameters())).eval()


def _check_images(name: str, images: Tensor, size: int) -> None:
    if images.dim() != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(f"{name}: expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}")
