"""Weights: our own files, the published checkpoints, and pretrained vision transformers.

Our own are safetensors with the model's configuration among the metadata, and the checkpoints of training runs.
Loading is strict: a missing, unexpected or misshapen tensor, or one with NaN or infinity in it, is an error that names
it. What a file's configuration asks for is compared with its tensors before any of it is allocated.
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
from ..errors import WeightsError, shown
from ..files import open_regular, replacing
from ..weights import DEFAULT, find_weights
from .checkpoints import read_pickled_checkpoint
from .efficientnet import EFFICIENTNET_LITE0, EfficientNetStem, load_efficientnet
from .grm import GRM
from .published import published_weights, read_vision_transformer, without_wrappers

#: Version of our file format, in the metadata.
FORMAT = "grm-1"
#: That of the checkpoints of `grm.training`.
RUN_FORMAT = "grm-training-1"

_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
# In the names of a division module's parameters.
_DIVISION = ".division."
# So many names of a kind are listed in an error.
_LISTED = 20


def save_weights(
    model: GRM, path: str | Path, metadata: Mapping[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Writes weights and configuration to a safetensors file. The file is replaced as a whole or not at all.

    Args:
        model: in any mode, on any device, wrapped by torch.compile or not; not one that was prepared for inference.
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
    state = without_wrappers(model.state_dict())
    content = save({name: _stored(tensor, dtype) for name, tensor in state.items()}, metadata)
    with replacing(path) as file:
        file.write(content)


def reconfigure_weights(path: str | Path, output: str | Path, overrides: Sequence[str]) -> None:
    """Writes a file of `save_weights` again, its tensors as they are, with another configuration.

    Args:
        path: of the file, or a name in `grm.weights.WEIGHTS`.
        output: replaced as a whole or not at all; may be the same file.
        overrides: of its configuration, which the weights have to fit still.

    Raises:
        WeightsError: not such a file.
        ConfigError: the configuration with its overrides is not valid.
        OSError: the file cannot be written.

    """
    path = find_weights(path)
    if not _is_safetensors(path):
        raise WeightsError(f"{path}: expected a .safetensors file of ours")
    model = load_model(path, overrides)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    content = save(tensors, {**metadata, "config": model.config.model_dump_json()})
    with replacing(output) as target:
        target.write(content)


def load_model(path: str | Path = DEFAULT, overrides: Sequence[str] = ()) -> GRM:
    """The model that a file of `save_weights` or a training run's checkpoint holds, in evaluation mode on the CPU.

    Args:
        path: of the file, or a name in `grm.weights.WEIGHTS`; by default the weights that come with the package.
        overrides: of its configuration, as in `grm.config.load_config`: "model.division.threshold=0.4".

    Raises:
        WeightsError: not such a file, or the weights do not fit the configuration.
        ConfigError: the configuration with its overrides is not valid.

    """
    path = find_weights(path)
    weights, values = _read_own(path) if _is_safetensors(path) else _read_run(path)
    config = parse_config({"model": values}, overrides, name=str(path)).model
    with torch.device("meta"):  # its shapes, before there is memory for them
        planned = GRM(config).state_dict()
    _check(planned, weights, set(planned), path)
    model = GRM(config)
    _assign(model, weights, set(planned), path)
    return model.eval()


def load_weights(model: GRM, path: str | Path, *, division: bool = True) -> None:
    """Loads all weights of a model: from a file as of `load_model`, or from a published GRM checkpoint.

    A published checkpoint is a pickle, of which only the tensors are read: nothing that it names is imported or called.

    Args:
        model: of the same sizes as the one whose weights they are.
        path: of the file.
        division: whether those of the division modules are loaded too; without, the variants may differ.

    Raises:
        WeightsError: none of these, or tensors missing, unexpected, not finite, or of another shape than the model's.

    """
    if _is_safetensors(path):
        weights, _ = _read_own(path)
    else:
        content = read_pickled_checkpoint(path)
        weights = _run_weights(content) or published_weights(content, path)
    if division:
        _assign(model, weights, set(model.state_dict()), path)
        return
    required = {name for name in model.state_dict() if _DIVISION not in name}
    _assign(model, {name: tensor for name, tensor in weights.items() if _DIVISION not in name}, required, path)


def is_published(path: str | Path) -> bool:
    """Whether a file of weights is a published checkpoint, and not one of `load_model`, which knows its configuration.

    Raises:
        WeightsError: not a file of weights at all.

    """
    return not _is_safetensors(path) and _run_weights(read_pickled_checkpoint(path)) is None


def load_pretrained(model: GRM, source: str, *, division: bool = True) -> None:
    """Loads what a model begins its training with.

    Args:
        model: to be trained.
        source: see `TrainingConfig.pretrained` for what it may be.
        division: as of `load_weights`; the other sources have no division modules.

    """
    if source == EFFICIENTNET_LITE0:
        if not isinstance(model.encoder.stem, EfficientNetStem):
            raise WeightsError(f"{source}: these are weights of a stem that this model does not have")
        load_efficientnet(model.encoder.stem)
    elif (path := str(find_weights(source))).lower().endswith((".safetensors", ".pth.tar", ".pt")):
        load_weights(model, path, division=division)
    else:
        load_pretrained_encoder(model, source)


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
    required = {name for name in model.state_dict() if name.startswith("encoder.") and _DIVISION not in name}
    _assign(model, tensors, required, path)


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    # A batch normalisation's count of batches stays a whole number.
    return tensor.to(dtype=dtype if tensor.is_floating_point() else None).contiguous()


def _is_safetensors(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".safetensors"


def _read_own(path: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and configuration of a file of `save_weights`."""
    open_regular(path, WeightsError).close()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file, or a broken one: {shown(error)}") from None
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path}: not written by save_weights (format: expected {FORMAT}, got {shown(metadata.get('format'))})"
        )
    return without_wrappers(tensors), _configuration(metadata["config"], path)


def _read_run(path: str | Path) -> tuple[dict[str, Any], Any]:
    """Weights and configuration of a training run's checkpoint."""
    content = read_pickled_checkpoint(path)
    weights = _run_weights(content)
    if weights is None or not isinstance(content.get("config"), str):
        raise WeightsError(
            f"{path}: no checkpoint of a training run of ours; a published one needs its configuration (--config) too"
        )
    config = _configuration(content["config"], path)
    return weights, config.get("model") if isinstance(config, dict) else config


def _run_weights(content: Any) -> dict[str, Any] | None:
    """The weights in a training run's checkpoint, their mean if it keeps one; None where it is none."""
    if not isinstance(content, dict) or content.get("format") != RUN_FORMAT:
        return None
    state = content.get("state")
    weights = state.get("average") or state.get("model") if isinstance(state, dict) else None
    return weights if isinstance(weights, dict) and all(isinstance(name, str) for name in weights) else None


def _configuration(text: str, path: str | Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the configuration in the file is broken: {shown(error)}") from None


def _assign(model: GRM, tensors: Mapping[str, Any], required: set[str], path: str | Path) -> None:
    """Copies tensors into the model if they are those required, in the model's shapes; else changes nothing."""
    _check(model.state_dict(), tensors, required, path)
    model.load_state_dict(dict(tensors), strict=False)


def _check(state: Mapping[str, Tensor], tensors: Mapping[str, Any], required: set[str], path: str | Path) -> None:
    faults = []
    if missing := sorted(required - set(tensors)):
        faults.append(f"missing: {_listed(missing)}")
    if unexpected := sorted(set(tensors) - required):
        faults.append(f"unexpected: {_listed(unexpected)}")
    common = sorted(required & set(tensors))
    misshapen = [
        f"{name} (expected {tuple(state[name].shape)}, got {_shape(tensors[name])})"
        for name in common
        if _shape(tensors[name]) != tuple(state[name].shape)
    ]
    alien = [
        name for name in common if isinstance(tensors[name], Tensor) and not _of_a_kind(tensors[name], state[name])
    ]
    if misshapen:
        faults.append(f"of another shape: {_listed(misshapen)}")
    elif alien:
        named = [f"{name} ({str(tensors[name].dtype).removeprefix('torch.')})" for name in alien]
        faults.append(f"neither float16, bfloat16, float32 nor float64: {_listed(named)}")
    elif broken := [name for name in common if not tensors[name].isfinite().all()]:
        faults.append(f"with NaN or infinity in it: {_listed(broken)}")
    if faults:
        raise WeightsError("\n  ".join([f"{path}: these weights do not fit the model", *faults]))


def _of_a_kind(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor of a file has numbers like the model's: a batch normalisation's count of batches is whole."""
    return tensor.dtype in _FLOATS if wanted.is_floating_point() else not tensor.is_complex()


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(shown, names[:_LISTED])) + more
