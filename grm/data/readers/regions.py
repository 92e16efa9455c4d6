"""Regions of pictures: any part of any photograph as a target, in the picture that it was taken from.

What is learnt from them, with crops that are stretched, mixed in colour and blurred, is to find a part again and where
it ends. No picture needs a box.
"""

from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np

from ...crop import Image
from ...media.images import list_frames
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import check_named

#: So many regions of each picture are told apart.
REGIONS = 1000
# Size of a region (square root of its area) over the picture's shorter side, and its width over its height.
_SIZE, _ASPECT = (0.08, 0.5), (0.2, 5.0)
# Of so many regions that are drawn, the one with most to see in it is taken.
_CANDIDATES = 6


class Region(ImageSequence):
    """One region of one picture."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(f"{path.name} region {number}")
        #: Tells the regions of a picture apart, from 0.
        self.number = number
        self._path = path

    def path(self, index: int) -> Path:
        """Where the picture lies, whatever the index."""
        return self._path

    @cached_property
    def _image(self) -> Image:
        return super().frame(0)

    def frame(self, index: int) -> Image:
        """The picture."""
        return self._image

    def read_annotation(self) -> Annotation:
        """A box that depends on nothing but the picture and the region's number."""
        rng = np.random.default_rng(self.number)
        height, width = self._image.shape[:2]
        low, high = np.log(_SIZE)
        size = np.exp(rng.uniform(low, high, (_CANDIDATES, 1))) * min(height, width)
        low, high = np.log(_ASPECT)
        half_aspect = rng.uniform(low, high, (_CANDIDATES, 1)) / 2
        extent = np.minimum(size * np.exp(half_aspect * (1, -1)), (0.9 * width, 0.9 * height))
        corner = rng.uniform(0, 1, (_CANDIDATES, 2)) * ((width, height) - extent)
        detail = [_detail(self._image, *box) for box in np.concatenate([corner, corner + extent], 1).astype(int)]
        best = int(np.argmax(detail))
        return Annotation(np.concatenate([corner[best], extent[best]])[None], np.ones(1, dtype=bool))


def regions_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the regions."""
    return [root]


def regions(root: Path, split: str, names: list[str] | None) -> Sequences[int]:
    """Regions of the pictures of a folder.

    Args:
        root: the folder.
        split: not used: there is one.
        names: take these pictures only.

    Raises:
        DataError: one of them is not there.

    """
    known = list_frames(root)
    files = known if names is None else names
    check_named(root, files, {*known})
    return Sequences(range(REGIONS * len(files)), partial(_open, root, files), still=True)


def _open(root: Path, files: list[str], index: int) -> Region:
    return Region(root / files[index % len(files)], index // len(files))


def _detail(image: Image, left: int, top: int, right: int, bottom: int) -> float:
    """How much there is to see in a part of an image: the deviation of its colours, at a coarse scale."""
    part = image[top : bottom + 1, left : right + 1]
    return float(cv2.resize(part, (8, 8), interpolation=cv2.INTER_AREA).std(axis=(0, 1)).mean())
