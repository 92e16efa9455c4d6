"""What decides the boxes of a run: weights, configuration, code, and where it is computed, as one hash."""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import torch

from grm_kernels.version import __version__

from ..config import SyntheticConfig
from ..model import GRM
from .benchmarks import FOLDER

# The sources that boxes depend on: modules and packages, with what is compiled beside them.
_SOURCES = (
    "grm.boxes",
    "grm.crop",
    "grm.data.augmentation",
    "grm.data.readers",
    "grm.data.sequence",
    "grm.data.synthetic",
    "grm.evaluation.passes",
    "grm.evaluation.restarts",
    "grm.evaluation.runner",
    "grm.media",
    "grm.model",
    "grm.tracking",
    "grm_kernels",
)


def run_identity(
    model: GRM, benchmark: str, *, device: str, dtype: torch.dtype, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What decides the boxes of a run, as plain values. What is equal gives the same boxes on processors of one kind.

    Cut-outs and photographs of rendered video are known by their folders, not by what is in them.

    Args:
        model: with its weights.
        benchmark: name of it.
        device: that the network runs on.
        dtype: that it computes in.
        settings: whatever else the run depends on, such as the difficulty of rendered sequences.

    """
    return {
        "benchmark": benchmark,
        "weights": weights_hash(model),
        "configuration": model.config.model_dump(mode="json"),
        "code": f"{__version__}+{code_hash()[:16]}",
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "device": torch.device(device).type,
        "dtype": str(dtype).removeprefix("torch."),
        **(settings or {}),
    }


def data_settings(benchmark: str, root: Path | None, rendered: SyntheticConfig | None) -> dict[str, Any]:
    """What tells the sequences of a benchmark from others of its name: of most data sets nothing, wherever they lie.

    Args:
        benchmark: name of it.
        root: of the data set. A plain folder has no other name.
        rendered: the difficulty of synthetic sequences.

    """
    if rendered is not None:
        return {"synthetic": rendered.model_dump(mode="json")}
    return {"root": str(root.resolve())} if benchmark == FOLDER and root is not None else {}


def weights_hash(model: GRM) -> str:
    """A hash of names, shapes, types and values of a model's parameters and buffers: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@cache
def code_hash() -> str:
    """A hash of the sources, and of the compiled kernels, that boxes depend on: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        for path in _files(name):
            digest.update(f"{name} {path.name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(name: str) -> Iterator[Path]:
    path = Path(str(import_module(name).__file__))
    if path.name != "__init__.py":
        yield path
        return
    yield from sorted(file for file in path.parent.rglob("*") if file.suffix in (".py", ".so", ".pyd"))
