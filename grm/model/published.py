"""Checkpoints of other code bases by our names: the published GRM, and vision transformers of MAE and DeiT."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import WeightsError, shown
from .checkpoints import read_pickled_checkpoint

# A vision transformer's names, as MAE, DeiT and the published GRM have them, and ours.
_ENCODER_NAMES = (
    (r"patch_embed\.proj\.(\w+)", r"stem.\1"),
    (r"blocks\.(\d+)\.(norm1|norm2|attn\.qkv)\.(\w+)", r"layers.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"layers.\1.attn.projection.\2"),
    (r"blocks\.(\d+)\.attn\.divide_predict\.0\.(\w+)", r"layers.\1.attn.division.first.\2"),
    (r"blocks\.(\d+)\.attn\.divide_predict\.2\.(\w+)", r"layers.\1.attn.division.second.\2"),
    (r"blocks\.(\d+)\.attn\.divide_predict\.4\.(\w+)", r"layers.\1.attn.division.third.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"layers.\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"layers.\1.mlp.1.\2"),
    (r"norm\.(\w+)", r"norm.\1"),
    (r"pos_embed_z", "template_position"),
    (r"pos_embed_x", "search_position"),
)
_BRANCHES = {"ctr": "center", "size": "size", "offset": "offset"}

# In the files, but of no use to a tracker.
_UNUSED_IN_PUBLISHED = re.compile(r"backbone\.(cls_token|pos_embed)")
_UNUSED_IN_PRETRAINED = re.compile(r"cls_token|dist_token|(head|head_dist)\..+")

_WRAPPERS = ("module.", "_orig_mod.")

# So many keys of a file are listed in an error.
_LISTED = 20


def published_weights(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    """The parameters of a published GRM checkpoint, by our names; an unknown one keeps its own.

    Args:
        checkpoint: as of `read_pickled_checkpoint`.
        path: of the file, for messages.

    Raises:
        WeightsError: not such a checkpoint.

    """
    net = _section(checkpoint, path, "net", "a published GRM checkpoint")
    return {_our_name(name): value for name, value in net.items() if not _UNUSED_IN_PUBLISHED.fullmatch(name)}


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """A model's state without the prefixes that torch.compile and data parallelism put before all of its names."""
    for prefix in _WRAPPERS * 2:  # either may be around the other
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def read_vision_transformer(path: str | Path, grids: Mapping[str, int]) -> dict[str, Any]:
    """Reads the encoder's parameters of an MAE or DeiT checkpoint, by our names; an unknown one keeps its own.

    Args:
        path: of the file.
        grids: sides in tokens to resize the position embedding to (bicubic), by the name of the image that it is for:
            "template" gives "encoder.template_position".

    Raises:
        WeightsError: not such a file.

    """
    checkpoint = _section(read_pickled_checkpoint(path), path, "model", "a pretrained vision transformer")
    prefix = 2 if "dist_token" in checkpoint else 1
    tensors = {name: value for name, value in checkpoint.items() if not _UNUSED_IN_PRETRAINED.fullmatch(name)}
    position = tensors.pop("pos_embed", None)
    tensors = {_encoder_name(name) or name: value for name, value in tensors.items()}
    if position is not None:
        for name, grid in grids.items():
            tensors[f"encoder.{name}_position"] = _resized_position(position, prefix, grid, path)
    return tensors


def _section(checkpoint: Any, path: str | Path, key: str, what: str) -> dict[str, Any]:
    section = checkpoint.get(key) if isinstance(checkpoint, dict) else None
    if isinstance(section, dict) and (_is_state(section) or not section):
        return without_wrappers(section)
    found, hint = type(checkpoint).__name__, ""
    if isinstance(checkpoint, dict):
        names = sorted(shown(name) for name in checkpoint)
        found = f"[{', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}]"
        if states := [shown(name) for name, value in checkpoint.items() if _is_state(value)]:
            hint = f"; if {states[0]!r} is what you want, torch.save({{{key!r}: checkpoint[{states[0]!r}]}}, ...)"
        elif _is_state(checkpoint):
            hint = f"; if it is the state of a model, torch.save({{{key!r}: checkpoint}}, ...)"
    raise WeightsError(f"{path}: not {what}: expected a dictionary of tensors under {key!r}, found {found}{hint}")


def _is_state(value: Any) -> bool:
    """Whether it looks like the state of a model: tensors by name."""
    named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return named and any(isinstance(tensor, Tensor) for tensor in value.values())


def _our_name(name: str) -> str:
    """Our name of a parameter of the published GRM; an unknown one stays as it is."""
    if name.startswith("backbone."):
        return _encoder_name(name.removeprefix("backbone.")) or name
    match = re.fullmatch(r"box_head\.conv([1-5])_(ctr|size|offset)\.(0\.|1\.|)(\w+)", name)
    if not match:
        return name
    stage, branch, part, parameter = match.groups()
    part = {"0.": "convolution.", "1.": "norm.", "": ""}[part]
    return f"head.{_BRANCHES[branch]}.{int(stage) - 1}.{part}{parameter}"


def _encoder_name(name: str) -> str | None:
    """Our name of a vision transformer's parameter; None if there is none."""
    for theirs, ours in _ENCODER_NAMES:
        if match := re.fullmatch(theirs, name):
            return "encoder." + match.expand(ours).replace(".attn.", ".attention.")
    return None


def _resized_position(position: Any, prefix: int, grid: int, path: str | Path) -> Tensor:
    """A position embedding (1, prefix + G * G, width) without its prefix, for a grid of another side."""
    shape = tuple(getattr(position, "shape", ()))
    side = round(max(0, shape[1] - prefix) ** 0.5) if len(shape) == 3 else 0
    if side == 0 or shape[:2] != (1, prefix + side * side):
        raise WeightsError(
            f"{path}: pos_embed: expected (1, {prefix} + a square, width), got {shape or type(position).__name__}"
        )
    image = position[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if side != grid:
        image = F.interpolate(image.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    return image.flatten(2).transpose(1, 2)
