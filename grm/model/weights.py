"""Weights: our own files, the published checkpoints, and pretrained vision transformers.

Our own are safetensors with the model's configuration among the metadata. Loading is strict: a missing, unexpected or
misshapen tensor is an error that names it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import parse_config
from ..errors import WeightsError
from ..files import replacing
from ..weights import DEFAULT, find_weights
from .grm import GRM
from .published import read_published, read_vision_transformer

#: Version of our file format, in the metadata.
FORMAT = "grm-1"

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
    # Not safetensors' own writing to a file, which nobody but its owner may read then.
    content = save({name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}, metadata)
    with replacing(path) as file:
        file.write(content)


def load_model(path: str | Path = DEFAULT, overrides: Sequence[str] = ()) -> GRM:
    """The model that a file of `save_weights` holds, in evaluation mode on the CPU.

    Args:
        path: of the file, or a name in `grm.weights.WEIGHTS`; by default the weights that come with the package.
        overrides: of its configuration, as in `grm.config.load_config`: "model.division.threshold=0.4".

    Raises:
        WeightsError: not such a file, or the weights do not fit the configuration.
        ConfigError: the configuration with its overrides is not valid.

    """
    path = find_weights(path)
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
        tensors = read_published(path)
    _assign(model, tensors, set(model.state_dict()), path)


def load_pretrained_encoder(model: GRM, path: str | Path) -> None:
    """Loads the encoder of a model from an MAE or DeiT checkpoint of a vision transformer.

    Its position embedding is resized to the grids of template and search region (bicubic). The division modules and the
    head are not in such a file and stay as they are.

    Raises:
        WeightsError: not such a file, or tensors missing, unexpected or of another shape than the encoder's.

    """
    config = model.config
    grids = {
        name: crop.size // config.encoder.patch
        for name, crop in (("template", config.template), ("search", config.search))
    }
    tensors = read_vision_transformer(path, grids)
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
