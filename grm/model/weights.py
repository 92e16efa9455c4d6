"""Weights: our own files, the published checkpoints, and pretrained vision transformers.

Our own are safetensors with the model's configuration among the metadata. Loading is strict: a missing, unexpected or
misshapen tensor is an error that names it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import parse_config
from .grm import GRM
from .pickles import WeightsError, read_pickled_checkpoint

#: Version of our file format, in the metadata.
FORMAT = "grm-1"

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

# So many names of a kind are listed in an error.
_LISTED = 20


def save_weights(
    model: GRM, path: str | Path, metadata: Mapping[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Writes weights and configuration to a safetensors file. The file is replaced as a whole or not at all.

    Args:
        model: in any mode, on any device; not one that was prepared for inference.
        path: of the file.
        metadata: more to keep with it; "format" and "config" are taken.
        dtype: that the weights are rounded to; None: as they are. Loading them gives a model its own dtype again.

    Raises:
        OSError: the file cannot be written.

    """
    if model.prepared:
        raise ValueError("a model prepared for inference cannot be saved; save the one it was prepared from")
    metadata = {**(metadata or {}), "format": FORMAT, "config": model.config.model_dump_json()}
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    # Not safetensors' own writing to a file, which nobody but its owner may read then.
    content = save({name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}, metadata)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def load_model(path: str | Path, overrides: Sequence[str] = ()) -> GRM:
    """The model that a file of `save_weights` holds, in evaluation mode on the CPU.

    Args:
        path: of the file.
        overrides: of its configuration, as in `grm.config.load_config`: "model.division.threshold=0.4".

    Raises:
        WeightsError: not such a file, or the weights do not fit the configuration.
        ConfigError: the configuration with its overrides is not valid.

    """
    tensors, metadata = _read_own(path)
    try:
        values = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: the configuration in the metadata is broken: {error}") from None
    config = parse_config({"model": values}, overrides, name=str(path))
    model = GRM(config.model)
    _assign(model, tensors, set(model.state_dict()), path)
    return model.eval()


def load_weights(model: GRM, path: str | Path) -> None:
    """Loads all weights of a model: from a file of `save_weights` (.safetensors), or from a published GRM checkpoint.

    A published checkpoint is a pickle, of which only the tensors are read: nothing that it names is imported or called.

    Raises:
        WeightsError: neither of the two, or tensors missing, unexpected or of another shape than the model's.

    """
    if Path(path).suffix == ".safetensors":
        tensors, _ = _read_own(path)
    else:
        tensors = _published(_section(path, "net", "a published GRM checkpoint"))
    _assign(model, tensors, set(model.state_dict()), path)


def load_pretrained_encoder(model: GRM, path: str | Path) -> None:
    """Loads the encoder of a model from an MAE or DeiT checkpoint of a vision transformer.

    Its position embedding is resized to the grids of template and search region (bicubic). The division modules and the
    head are not in such a file and stay as they are.

    Raises:
        WeightsError: not such a file, or tensors missing, unexpected or of another shape than the encoder's.

    """
    checkpoint = _section(path, "model", "a pretrained vision transformer")
    prefix = 2 if "dist_token" in checkpoint else 1
    tensors = {name: value for name, value in checkpoint.items() if not _UNUSED_IN_PRETRAINED.fullmatch(name)}
    position = tensors.pop("pos_embed", None)
    tensors = {_encoder_name(name) or name: value for name, value in tensors.items()}
    if position is not None:
        config = model.config
        for name, size in (("template", config.template.size), ("search", config.search.size)):
            grid = size // config.encoder.patch
            tensors[f"encoder.{name}_position"] = _resized_position(position, prefix, grid, path)
    required = {name for name in model.state_dict() if name.startswith("encoder.") and ".division." not in name}
    _assign(model, tensors, required, path)


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    # A batch normalisation's count of batches stays a whole number.
    return tensor.to(dtype=dtype if tensor.is_floating_point() else None).contiguous()


def _read_own(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file, or a broken one: {error}") from None
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path}: not written by save_weights (format: expected {FORMAT}, got {metadata.get('format')})"
        )
    return tensors, metadata


def _section(path: str | Path, key: str, what: str) -> dict[str, Any]:
    checkpoint = read_pickled_checkpoint(path)
    section = checkpoint.get(key) if isinstance(checkpoint, dict) else None
    if not isinstance(section, dict) or not all(isinstance(name, str) for name in section):
        keys = sorted(map(str, checkpoint))[:_LISTED] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise WeightsError(f"{path}: not {what}: expected a dictionary of tensors under {key!r}, found {keys}")
    return section


def _published(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {_our_name(name): value for name, value in checkpoint.items() if not _UNUSED_IN_PUBLISHED.fullmatch(name)}


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


def _assign(model: GRM, tensors: Mapping[str, Any], required: set[str], path: str | Path) -> None:
    """Copies tensors into the model if they are those required, in the model's shapes; else changes nothing."""
    state = model.state_dict()
    faults = []
    if missing := sorted(required - set(tensors)):
        faults.append(f"missing: {_listed(missing)}")
    if unexpected := sorted(set(tensors) - required):
        faults.append(f"unexpected: {_listed(unexpected)}")
    misshapen = [
        f"{name} (expected {tuple(state[name].shape)}, got {_shape(tensors[name])})"
        for name in sorted(required & set(tensors))
        if _shape(tensors[name]) != tuple(state[name].shape)
    ]
    if misshapen:
        faults.append(f"of another shape: {_listed(misshapen)}")
    if faults:
        raise WeightsError("\n  ".join([f"{path}: these weights do not fit the model", *faults]))
    model.load_state_dict(dict(tensors), strict=False)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
