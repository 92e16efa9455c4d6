"""TrackingNet: `TRAIN_k/frames/VIDEO/0.jpg`, `TRAIN_k/anno/VIDEO.txt`; TEST likewise, with the first box only."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from ...boxes import has_box
from ...errors import DataError
from ...media.images import list_frames
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import pad_boxes, read_boxes

#: Boxes were drawn by hand in one frame out of so many; those between come from a tracker.
ANNOTATED_EVERY = 30


class TrackingNetSequence(ImageSequence):
    """One video of TrackingNet. Visible: frames with a box drawn by hand, and the last one."""

    def __init__(self, part: Path, name: str) -> None:
        super().__init__(name)
        self.part = part

    def path(self, index: int) -> Path:
        """The file of frame `index`, from `0.jpg` on."""
        return self.part / "frames" / self.name / f"{index}.jpg"

    def read_annotation(self) -> Annotation:
        """`anno/NAME.txt`; of the test split, the first box alone."""
        boxes = read_boxes(self.part / "anno" / f"{self.name}.txt")
        by_hand = np.arange(len(boxes)) % ANNOTATED_EVERY == 0
        by_hand[-1] = True
        if self.part.name == "TEST":
            boxes = pad_boxes(boxes[:1], len(list_frames(self.part / "frames" / self.name)))
            by_hand = np.ones(len(boxes), dtype=bool)
        return Annotation(boxes, has_box(boxes) & by_hand)


def trackingnet_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    parts = _parts(root, split) or [root / ("TEST" if split == "test" else "TRAIN_0")]
    return [root, *(part / folder for part in parts for folder in ("anno", "frames"))]


def trackingnet(root: Path, split: str, names: list[str] | None) -> Sequences[tuple[str, str]]:
    """The sequences of TrackingNet.

    Args:
        root: folder of the parts. Any of TRAIN_0 ... TRAIN_11 that are there are used.
        split: "train" or "test".
        names: take these videos only.

    Raises:
        DataError: a video that is named is not there.

    """
    keys = [
        (part.name, video.removesuffix(".txt"))
        for part in _parts(root, split)
        for video in sorted(os.listdir(part / "anno"))
        if video.endswith(".txt") and not video.startswith(".")
    ]
    if names is not None:
        parts = {video: part for part, video in keys}
        if unknown := [name for name in names if name not in parts]:
            raise DataError(f"{root}: no video {unknown[0]!r} in {split} ({len(unknown)} of {len(names)} named)")
        keys = [(parts[name], name) for name in names]
    return Sequences(keys, partial(_open, root))


def _parts(root: Path, split: str) -> list[Path]:
    parts = root.glob("TEST" if split == "test" else "TRAIN_*")
    return sorted(filter(Path.is_dir, parts), key=lambda part: (len(part.name), part.name))


def _open(root: Path, key: tuple[str, str]) -> TrackingNetSequence:
    return TrackingNetSequence(root / key[0], key[1])
