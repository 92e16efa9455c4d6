"""UAV123: `data_seq/UAV123/VIDEO/000001.jpg` and `anno/UAV123/NAME.txt`, NaN where the target is absent.

A video serves several sequences, each with a first and a last frame. They are in `configSeqs.m`, which comes with the
data set, or in the list that the user names.
"""

import re
from functools import partial
from pathlib import Path

from ...errors import DataError
from ..sequence import Sequences
from .annotations import list_texts, read_lines
from .frame_folder import FrameFolder, Span, named_spans

_LIST = "configSeqs.m"
# An entry of the list: struct('name','bird1_1','path','..\data_seq\UAV123\bird1\','startFrame',1,'endFrame',253,...).
_ENTRY = re.compile(
    r"'name'\s*,\s*'(?P<name>[^']+)'\s*,\s*'path'\s*,\s*'(?P<path>[^']+)'"
    r"\s*,\s*'startFrame'\s*,\s*(?P<first>\d+)\s*,\s*'endFrame'\s*,\s*(?P<last>\d+)"
)


def uav123_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root, *_folders(root)]


def uav123(root: Path, split: str, names: list[str] | None) -> Sequences[tuple[str, str, Span | None]]:
    """The sequences of UAV123.

    Args:
        root: has `data_seq` and `anno`.
        split: not used: there is one.
        names: take these only: `NAME VIDEO FIRST LAST`, or `NAME` if `configSeqs.m` has the rest, or if the folder of
            that name has as many images as there are boxes.

    Raises:
        DataError: a list cannot be read.

    """
    listed = _listed(root / _LIST) if (root / _LIST).exists() else {}
    annotated = list_texts(_folders(root)[1])
    chosen = {name: (name, None) for name in annotated} if names is None else named_spans(names, folders=True)
    keys = []
    for name, (video, span) in chosen.items():
        if span is None:
            video, span = listed.get(name, (video, None))
        keys.append((name, video, span))
    return Sequences(keys, partial(_open, root))


def _open(root: Path, key: tuple[str, str, Span | None]) -> FrameFolder:
    name, video, span = key
    frames, boxes = _folders(root)
    if span is None and not (frames / video).is_dir():
        raise DataError(
            f"{name}: no folder {frames / video}: expected {root / _LIST}, or a list with lines NAME VIDEO FIRST LAST"
        )
    return FrameFolder(name, frames / video, boxes / f"{name}.txt", span=span)


def _folders(root: Path) -> tuple[Path, Path]:
    return root / "data_seq" / "UAV123", root / "anno" / "UAV123"


def _listed(path: Path) -> dict[str, tuple[str, Span]]:
    entries = [match for line in read_lines(path) if "UAV123" in line for match in _ENTRY.finditer(line)]
    if not entries:
        raise DataError(f"{path}: holds no sequence: expected struct('name', ..., 'startFrame', ..., 'endFrame', ...)")
    # UAV20L and the ten frames a second are listed there, too.
    own = [entry for entry in entries if "UAV123" in re.split(r"[\\/]", entry["path"])]
    return {
        entry["name"]: (
            re.split(r"[\\/]", entry["path"].rstrip("\\/"))[-1],
            Span(int(entry["first"]), int(entry["last"])),
        )
        for entry in own
    }
