"""Files of `torch.save`, read without trusting them: archives, and the format from before torch 1.6."""

import os
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import WeightsError, shown
from ..files import open_regular
from .pickles import PickleError, StorageRecord, TensorRecord, read_pickle, rebuild

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
_MAX_DIMENSIONS = 16
# Tensors may be views of the same storage; written out one by one they are at most so many times the file.
_MAX_EXPANSION = 8

# What the format from before torch 1.6 begins with.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_pickled_checkpoint(path: str | Path) -> Any:
    """What is in a checkpoint of `torch.save`: lists, tuples, dictionaries, numbers, strings, and tensors on the CPU.

    Every other object is `grm.model.pickles.FOREIGN`, a class or a function a `Global`. Nothing is imported or called,
    and what is read takes no more memory than a few times the file, whatever it says.

    Raises:
        WeightsError: not such a file, a broken one, or one that asks for what no checkpoint holds.
        OSError: it cannot be read.

    """
    with open_regular(path, WeightsError) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if zipfile.is_zipfile(file):
                return _read_archive(file, size)
            file.seek(0)
            return _read_legacy(file, size)
        except (PickleError, zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
            raise WeightsError(f"{path}: the checkpoint is broken: {shown(error)}") from None
        except _OtherFileError as error:
            raise WeightsError(f"{path}: not a checkpoint of torch.save{error}") from None


class _OtherFileError(Exception):
    """The message, which may be empty, says why."""


def _read_archive(file: BinaryIO, size: int) -> Any:
    held: dict[str, bytearray] = {}
    with zipfile.ZipFile(file) as archive:
        records = _records(archive, size)
        roots = [name.removesuffix("data.pkl") for name in records if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if not roots:
            raise _OtherFileError(" (no data.pkl in the archive)")
        root = roots[0]
        if f"{root}byteorder" in records and archive.read(f"{root}byteorder") != b"little":
            raise _OtherFileError(": only little-endian checkpoints can be read")
        content = read_pickle(BytesIO(archive.read(f"{root}data.pkl")))

        def read(record: StorageRecord, length: int) -> bytearray:
            name = f"{root}data/{record.key}"
            if name not in records or records[name].file_size < length:
                raise PickleError("a storage is missing, or shorter than it should be")
            if name not in held:
                held[name] = bytearray(archive.read(name))  # which checks its sum
            return held[name]

        return _with_tensors(content, read, size)


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records by name: stored as they are, each once, one after the other within the file."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [info.header_offset for info in infos[1:]] + [size]
    for info, end in zip(infos, ends, strict=True):
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise PickleError("the archive is compressed or encrypted, which no checkpoint is")
        if info.header_offset < 0 or info.header_offset + info.file_size > end:
            raise PickleError("records of the archive overlap, or reach beyond its end")
    records = {info.filename: info for info in infos}
    if len(records) != len(infos):
        raise PickleError("a record of the archive is there twice")
    return records


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Five pickles, the fourth of which is the content and the last the keys of the storages, which then follow."""
    try:
        magic, version = read_pickle(file), read_pickle(file)
    except PickleError:
        raise _OtherFileError("") from None
    if (
        not isinstance(magic, int)
        or not isinstance(version, int)
        or (magic, version)
        != (
            _LEGACY_MAGIC,
            _LEGACY_VERSION,
        )
    ):
        raise _OtherFileError("")
    system, content, keys = read_pickle(file), read_pickle(file), read_pickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _OtherFileError(": only little-endian checkpoints can be read")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("the storages have no list of keys")
    kinds: dict[str, StorageRecord] = {}
    rebuild(content, lambda value: kinds.setdefault(value.storage.key, value.storage) if _is_tensor(value) else None)
    storages = {}
    for key in keys:
        count = int.from_bytes(_exactly(file, 8, size), "little", signed=True)
        if key not in kinds or key in storages or count != kinds[key].elements:
            raise PickleError("a storage is not one of those that the tensors are in, or of another size")
        storages[key] = bytearray(_exactly(file, count * _item_size(kinds[key]), size))

    def read(record: StorageRecord, length: int) -> bytearray:
        if record.key not in storages or len(storages[record.key]) < length:
            raise PickleError("a storage is missing, or shorter than it should be")
        return storages[record.key]

    return _with_tensors(content, read, size)


def _exactly(file: BinaryIO, count: int, size: int) -> bytes:
    if not 0 <= count <= size - file.tell():
        raise PickleError("it is cut off")
    return file.read(count)


def _with_tensors(content: Any, read: Callable[[StorageRecord, int], bytearray], size: int) -> Any:
    """The content with tensors in place of their records.

    Args:
        content: as of `read_pickle`.
        read: the bytes of a storage, which are at least so many.
        size: of the file, in bytes.

    """
    storages: dict[StorageRecord, Tensor] = {}
    left = _MAX_EXPANSION * size

    def replace(value: Any) -> Any:
        nonlocal left
        if isinstance(value, StorageRecord):
            raise PickleError("a storage that is no tensor")
        if not _is_tensor(value):
            return value
        _check_view(value)
        left -= prod(value.size) * _item_size(value.storage)
        if left < 0:
            raise PickleError("the tensors are many times larger than the file")
        if value.storage not in storages:
            storages[value.storage] = _storage(value.storage, read)
        return storages[value.storage].as_strided(value.size, value.stride, value.offset)

    return rebuild(content, replace)


def _storage(record: StorageRecord, read: Callable[[StorageRecord, int], bytearray]) -> Tensor:
    dtype = _STORAGE_DTYPES[record.kind]
    if record.elements == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(read(record, record.elements * _item_size(record)), dtype=dtype, count=record.elements)


def _check_view(tensor: TensorRecord) -> None:
    """Checks that a tensor lies within its storage, and has no more elements than that."""
    size, stride, offset, count = tensor.size, tensor.stride, tensor.offset, tensor.storage.elements
    plain = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MAX_DIMENSIONS
    if not plain or not all(type(n) is int and 0 <= n < 2**62 for n in (*size, *stride, offset, count)):
        raise PickleError("a tensor's size, stride or offset is not one of a tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) > count or (prod(size) and last >= count) or offset > count:
        raise PickleError("a tensor is larger than its storage")


def _item_size(record: StorageRecord) -> int:
    if record.kind not in _STORAGE_DTYPES:
        raise PickleError("a storage of an unknown kind")
    return _STORAGE_DTYPES[record.kind].itemsize


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord)
