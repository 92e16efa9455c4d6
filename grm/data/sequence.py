"""Sequences: videos with the target's box in every frame, opened when they are read and not before."""

from abc import ABC, abstractmethod
from collections import abc
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes, has_box
from ..crop import Image
from ..errors import DataError
from ..media.images import read_image

Key = TypeVar("Key")


class VideoSequence(Protocol):
    """A video and where its target is. Frames are counted from 0."""

    #: Names it within its data set.
    name: str

    @property
    def boxes(self) -> Boxes:
        """(N, 4) x, y, width, height in pixels; a row of NaN where the target is absent or its box unknown."""

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N,) whether the target can be seen. A visible frame has a box."""

    def __len__(self) -> int:
        """Number of frames N."""

    def frame(self, index: int) -> Image:
        """Frame `index`: (height, width, 3) uint8, RGB."""


def check_trackable(sequence: VideoSequence) -> None:
    """Raises a DataError unless there is a box to show a tracker and another to compare with."""
    known = has_box(sequence.boxes)
    if not known[0] or not known[1:].any():
        raise DataError(f"{sequence.name}: expected a box in the first frame and in another")


class Annotation(NamedTuple):
    """What is known of each frame of a sequence."""

    boxes: Boxes
    visible: NDArray[np.bool_]


class ImageSequence(ABC):
    """A sequence of image files. Its annotation is read on first use."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def path(self, index: int) -> Path:
        """Where frame `index` lies."""

    @abstractmethod
    def read_annotation(self) -> Annotation:
        """Reads boxes and flags; a DataError names the file that is missing or broken."""

    @cached_property
    def _annotation(self) -> Annotation:
        return self.read_annotation()

    @property
    def boxes(self) -> Boxes:
        """(N, 4), see `VideoSequence.boxes`."""
        return self._annotation.boxes

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N,), see `VideoSequence.visible`."""
        return self._annotation.visible

    def __len__(self) -> int:
        return len(self._annotation.boxes)

    def frame(self, index: int) -> Image:
        """Frame `index`, read from its file; a MediaError names one that cannot be read."""
        return read_image(self.path(index))


class Sequences(abc.Sequence[VideoSequence], Generic[Key]):
    """The sequences of a data set, each opened when it is asked for and not kept."""

    def __init__(
        self,
        keys: abc.Sequence[Key],
        open_one: abc.Callable[[Key], VideoSequence],
        *,
        still: bool = False,
        faults: abc.Sequence[str] = (),
    ) -> None:
        """Lists sequences by what tells them apart, with a function that opens one.

        Args:
            keys: one for each sequence.
            open_one: cheap; can be pickled, for the workers of a data loader.
            still: these are single images.
            faults: what is broken in the data set and was left out, a line each.

        """
        self.keys, self.open_one, self.still, self.faults = keys, open_one, still, faults

    @overload
    def __getitem__(self, index: int) -> VideoSequence: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequences[Key]": ...
    def __getitem__(self, index: int | slice) -> "VideoSequence | Sequences[Key]":
        if isinstance(index, slice):
            return Sequences(self.keys[index], self.open_one, still=self.still, faults=self.faults)
        return self.open_one(self.keys[index])

    def __len__(self) -> int:
        return len(self.keys)
