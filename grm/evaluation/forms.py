"""One tracker in the forms of the paper's Table 4, to be timed side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from grm_kernels import Category

from ..config import overridden_model
from ..crop import Image, crop_image, crop_region
from ..model import GRM, Division, normalize_images
from ..model.division import TokenDivision
from ..model.encoder import Attention

#: Forms that a model's own weights are enough for, as overrides of its configuration: three implementations of its
#: attention, and the two without a division (#1 and #2).
FORMS: dict[str, tuple[str, ...]] = {
    "fused": ("model.encoder.attention=fused", "model.encoder.epsilon=0"),
    "masked": ("model.encoder.attention=masked", "model.encoder.backend=null"),
    "separate": ("model.encoder.attention=separate", "model.encoder.backend=null"),
    "two-stream": ("model.division={variant: two_stream}",),
    "one-stream": ("model.division={variant: one_stream}",),
}
#: The forms that divide (#3, #4 and #5): their names, and the variant of each.
DIVIDING = {"S or T": "ts", "S, T or A": "tsa", "S or A": "sa"}

# What else of a division would decide its shares.
_DECIDES_BY_ITSELF = tuple(
    f"model.division.{key}" for key in ("threshold=null", "ratio=null", "ratios={}", "ratio_rule=exact", "band=0")
)

# The rows of Table 4 by the variants that they are.
_ROWS = {"two_stream": "#1", "one_stream": "#2", "ts": "#3", "tsa": "#4", "sa": "#5"}


def row_of_table(form: str, variant: str) -> str:
    """The row of Table 4 that a form of a model of some variant is, as "#5"; "" if none."""
    variants = {**DIVIDING, "two-stream": "two_stream", "one-stream": "one_stream"}
    return _ROWS.get(variants.get(form, variant), "")


def dividing_forms(model: GRM, frame: Image, box: ArrayLike, share: float) -> dict[str, GRM]:
    """The forms of `DIVIDING` but the model's own, in evaluation mode.

    They have the model's weights where those fit, new ones elsewhere, and each is brought to the model's shares of S in
    this frame, layer by layer: what they decide means nothing, and takes the time that it would.

    Args:
        model: a hard division, or none.
        frame: (height, width, 3).
        box: (4,) of the target.
        share: of S, of a model that divides in no layer.

    """
    shares = [share if own is None else own for own in shares_of_s(model, frame, box)]
    found = {}
    for name, variant in DIVIDING.items():
        if variant == model.config.division.variant:
            continue
        overrides = (f"model.division.variant={variant}", *_DECIDES_BY_ITSELF, *FORMS["fused"])
        form = GRM(overridden_model(model.config, overrides))
        weights, own = model.state_dict(), form.state_dict()
        fitting = {key: weights[key] for key in own if key in weights and weights[key].shape == own[key].shape}
        form.load_state_dict(fitting, strict=False)
        form.to(next(model.parameters())).eval()
        balance_division(form, frame, box, [shares[number - 1] for number in form.config.division_layers])
        found[name] = form
    return found


@torch.no_grad()
def shares_of_s(model: GRM, frame: Image, box: ArrayLike) -> list[float | None]:
    """The share of S among the search tokens of each layer of a hard division in a frame; None of those without one."""
    found: list[float | None] = []
    for number, division in enumerate(_run_once(model.eval(), frame, box), start=1):
        if number not in model.config.division_layers or division.categories is None:
            found.append(None)
        else:
            found.append((division.categories == Category.S).float().mean().item())
    return found


def balance_division(model: GRM, frame: Image, box: ArrayLike, share: float | Sequence[float]) -> None:
    """Shifts the division modules' biases so that in this frame a share of the search tokens is S in every layer.

    New weights divide in no meaningful way; how fast masks and gathered attention are depends on the share. Of a
    division into three about half of the others become A. In place.

    Args:
        model: a hard division.
        frame: (height, width, 3).
        box: (4,) of the target.
        share: from 0 to 1; or one for each division module.

    """
    modules = [module for module in model.modules() if isinstance(module, TokenDivision)]
    shares = [share] * len(modules) if isinstance(share, int | float) else list(share)
    share_of = dict(zip(modules, shares, strict=True))

    def shift(module: TokenDivision, inputs: tuple[Tensor]) -> None:
        logits = module.logits(inputs[0]).float().flatten(0, 1)  # (tokens, C), S first
        bias = module.third.bias.data
        if logits.shape[1] > 2:
            ahead = (logits[:, 2] - logits[:, 1]).median()
            bias[2] -= ahead.to(bias.dtype)
            logits[:, 2] -= ahead
        score = (logits[:, 1:].amax(-1) - logits[:, 0]).sort().values
        rank = round(share_of[module] * (len(score) - 1))
        # Between two tokens, so that rounding turns none of them over.
        boundary = (score[rank] + score[min(rank + 1, len(score) - 1)]) / 2
        bias[1:] += module.margin - boundary.to(bias.dtype)

    handles = [module.register_forward_pre_hook(shift) for module in modules]
    model.eval()
    try:
        with torch.no_grad():
            _run_once(model, frame, box)
    finally:
        for handle in handles:
            handle.remove()


def _run_once(model: GRM, frame: Image, box: ArrayLike) -> tuple[Division, ...]:
    box = np.atleast_2d(box)[:1]
    images = []
    for config in (model.config.template, model.config.search):
        crop = crop_image(frame, crop_region(box[0], config.factor), config.size)
        images.append(normalize_images(torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0)))
    template = model.config.template
    told = crop_region(box[0], template.factor).to_crop(box, template.size)
    # A backend that is named may be of a device that the model is yet to be moved to.
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    named = [attention.backend for attention in attentions]
    try:
        for attention in attentions:
            attention.backend = None
        return model(*images, template_box=torch.from_numpy(told).float()).divisions
    finally:
        for attention, backend in zip(attentions, named, strict=True):
            attention.backend = backend
