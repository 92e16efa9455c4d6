"""AVisT: `sequences/NAME/img_00001.jpg`, `anno/NAME.txt`, and flags in `full_occlusion` and `out_of_view`."""

from functools import partial
from pathlib import Path

from ..sequence import Annotation, Sequences
from .annotations import list_texts
from .frame_folder import FrameFolder

_FLAGS = ("full_occlusion", "out_of_view")


def avist_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root, *(root / part for part in ("sequences", "anno", *_FLAGS))]


def avist(root: Path, split: str, names: list[str] | None) -> Sequences[str]:
    """The sequences of AVisT. Visible: neither flag is set, the box has an area, and neither x nor y of it is 0.

    The last is a rule of the common Python toolkit for this data set, and so part of all published figures.

    Args:
        root: has `sequences`, `anno`, `full_occlusion` and `out_of_view`.
        split: not used: there is one.
        names: take these only.

    """
    return Sequences(list_texts(root / "anno") if names is None else names, partial(_open, root))


class _Sequence(FrameFolder):
    def read_annotation(self) -> Annotation:
        """Boxes and flags, by that rule."""
        boxes, visible = super().read_annotation()
        return Annotation(boxes, visible & (boxes > 0).all(axis=-1))


def _open(root: Path, name: str) -> FrameFolder:
    flags = [root / flag / f"{name}_{flag}.txt" for flag in _FLAGS]
    return _Sequence(name, root / "sequences" / name, root / "anno" / f"{name}.txt", flags)
