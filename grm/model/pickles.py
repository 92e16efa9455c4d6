"""Reads tensors out of a pickled checkpoint without importing or calling anything that it names.

A checkpoint of `torch.save` is a pickle, and a pickle can name any function to be called. Trackers' checkpoints
moreover hold objects of their trainer's own classes, which are not installed here. This reader knows how to build
tensors; whatever else a pickle names becomes an inert placeholder.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Placeholder:
    """Stands for an object of an unknown class, or an unknown function and its result. Takes anything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any): ...

    def __setstate__(self, state: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None:
        """As a list's."""

    def extend(self, items: Any) -> None:
        """As a list's."""

    def add(self, item: Any) -> None:
        """As a set's."""


def read_pickled_checkpoint(path: str | Path) -> Any:
    """What is in a checkpoint of `torch.save`: containers, numbers, strings and tensors (on the CPU); the rest inert.

    Raises:
        WeightsError: not such a file, or a broken one.
        OSError: it cannot be read.

    """
    if not zipfile.is_zipfile(path):
        return _read_legacy(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            roots = [name.removesuffix("data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if not roots:
                raise WeightsError(f"{path}: not a checkpoint of torch.save (no data.pkl in the archive)")
            root = roots[0]
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise WeightsError(f"{path}: only little-endian checkpoints can be read")
            return _Unpickler(archive, root).load()
    except (OSError, WeightsError):
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise WeightsError(f"{path}: the checkpoint is broken: {type(error).__name__}: {error}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")), encoding="utf-8")
        self._archive = archive
        self._root = root
        self._storages: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a global of the pickle means here. Nothing is looked up or imported by its name."""
        match (module, name):
            case ("collections", "OrderedDict"):
                return OrderedDict
            case ("torch._utils", "_rebuild_tensor_v2"):
                return _tensor
            case ("torch._utils", "_rebuild_parameter"):
                return _parameter
            case ("torch", storage) if storage in _STORAGE_DTYPES:
                return _STORAGE_DTYPES[storage]
            case _:
                return Placeholder

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", dtype, key of the record, device, number of elements) to a flat tensor."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of storage {pid!r}")
        if key not in self._storages:
            self._storages[key] = bytearray(self._archive.read(f"{self._root}data/{key}"))
        record = self._storages[key]
        return torch.frombuffer(record, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # Refused by torch where it leaves the storage.
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _read_legacy(path: str | Path) -> Any:
    """Before version 1.6 torch did not write archives; its own safe reader takes those that have tensors only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:
        raise WeightsError(
            f"{path}: not a checkpoint of torch.save, or one of before torch 1.6 with more than tensors in it"
        ) from None
