"""NfS at 30 frames a second: `sequences/NAME/00001.jpg` and `anno/nfs_NAME.txt`.

The original download is read, too: `NAME/30/NAME/00001.jpg` and `NAME/30/NAME.txt`, whose lines have corners and are of
240 frames a second.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ...boxes import Boxes
from ...errors import DataError
from ..sequence import Sequences
from .annotations import list_texts, read_boxes, read_lines
from .frame_folder import FrameFolder, Span, named_spans

_PREFIX = "nfs_"
# Frames of the annotation for one of the video.
_RATE = 8


def nfs_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def nfs(root: Path, split: str, names: list[str] | None) -> Sequences[tuple[str, Span | None]]:
    """The sequences of NfS at 30 frames a second.

    Args:
        root: has `sequences` and `anno`, or the folders of the original download.
        split: not used: there is one.
        names: take these only: `NAME`, or `NAME FIRST LAST` where the boxes are of these images only.

    Raises:
        DataError: a list cannot be read.

    """
    if names is not None:
        keys = [(name, span) for name, (_, span) in named_spans(names).items()]
    elif (root / "anno").is_dir():
        keys = [(name.removeprefix(_PREFIX), None) for name in list_texts(root / "anno")]
    else:
        found = (path.parents[1].name for path in root.glob("*/30/*.txt") if path.stem == path.parents[1].name)
        keys = [(name, None) for name in sorted(found)]
    return Sequences(keys, partial(_open, root))


def _open(root: Path, key: tuple[str, Span | None]) -> FrameFolder:
    name, span = key
    boxes = [root / "anno" / f"{_PREFIX}{name}.txt", root / "anno" / f"{name}.txt", root / name / "30" / f"{name}.txt"]
    starts = (root / "sequences", root)
    frames = [start / nested for start in starts for nested in (Path(name, "30", name), Path(name))]
    return FrameFolder(name, _there(frames), _there(boxes), span=span, read=_read)


def _there(paths: list[Path]) -> Path:
    return next((path for path in paths if path.exists()), paths[0])


def _read(path: Path, frames: int) -> Boxes:
    """Boxes of so many frames; some annotations have one more than there are frames, which is left out."""
    original = path.parent.name == "30"
    boxes = _read_original(path) if original else read_boxes(path)
    if original and abs(len(boxes) - _RATE * frames) <= _RATE:
        boxes = boxes[::_RATE]
    return boxes[:frames] if len(boxes) == frames + 1 else boxes


def _read_original(path: Path) -> Boxes:
    """Lines of target, left, top, right, bottom, frame, three flags and a name in quotes."""
    rows = [line.split()[1:5] for line in read_lines(path)]
    try:
        corners = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise DataError(f"{path}: expected lines of target, left, top, right, bottom, ...: {error}") from None
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=-1)
    boxes[~(boxes[:, 2:] > 0).all(-1)] = np.nan
    return boxes
