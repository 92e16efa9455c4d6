"""What most benchmarks are: the images of one folder in natural order, and a file with their boxes."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ...boxes import Boxes, has_box
from ...errors import DataError
from ...media.images import list_frames
from ..sequence import Annotation, ImageSequence
from .annotations import pad_boxes, read_boxes, read_integers


class Span(NamedTuple):
    """Frames of a folder, both ends included, by the numbers in their files' names."""

    first: int
    last: int


class FrameFolder(ImageSequence):
    """The images of one folder. Visible: no flag is set and the box has an area. One box alone is the first frame's.

    Args:
        name: of the sequence.
        frames: folder of the images.
        boxes: file with a box for each frame.
        flags: files with a number for each frame, which is not 0 where the target cannot be seen.
        span: the frames that the boxes are of; None: all.
        read: reads the file of boxes, given the number of frames; None: `read_boxes`.

    """

    def __init__(
        self,
        name: str,
        frames: Path,
        boxes: Path,
        flags: Iterable[Path] = (),
        *,
        span: Span | None = None,
        read: Callable[[Path, int], Boxes] | None = None,
    ) -> None:
        super().__init__(name)
        self.folder = frames
        self._boxes, self._flags, self._span = boxes, tuple(flags), span
        self._read = read
        self._files: list[str] | None = None

    @property
    def files(self) -> list[str]:
        """Names of the frames."""
        if self._files is None:
            files = list_frames(self.folder)
            if self._span is not None:
                files = [name for name in files if self._span.first <= _number(name) <= self._span.last]
                expected = self._span.last - self._span.first + 1
                if len(files) != expected:
                    raise DataError(f"{self.folder}: {len(files)} of the {expected} frames {_told(self._span)}")
            self._files = files
        return self._files

    def path(self, index: int) -> Path:
        """The file of frame `index`, in natural order."""
        return self.folder / self.files[index]

    def read_annotation(self) -> Annotation:
        """Boxes and flags."""
        boxes = read_boxes(self._boxes) if self._read is None else self._read(self._boxes, len(self.files))
        if len(boxes) == 1:
            boxes = pad_boxes(boxes, len(self.files))
        if len(boxes) != len(self.files):
            where = "" if self._span is None else f" {_told(self._span)}"
            raise DataError(f"{self._boxes}: {len(boxes)} boxes for {len(self.files)} images{where}")
        visible = has_box(boxes)
        for flag in self._flags:
            visible &= read_integers(flag, len(boxes)) == 0
        return Annotation(boxes, visible)


def named_spans(lines: Iterable[str], *, folders: bool = False) -> dict[str, tuple[str, Span | None]]:
    """What lists of sequences say: `NAME` or `NAME FIRST LAST` in a line.

    Args:
        lines: of the list.
        folders: a line may be `NAME FOLDER FIRST LAST` as well.

    Returns:
        by name: the folder, which is the name if it is not given, and the frames.

    Raises:
        DataError: a line is something else, or two have the same name.

    """
    forms = "NAME, NAME FIRST LAST or NAME FOLDER FIRST LAST" if folders else "NAME or NAME FIRST LAST"
    lengths = {1, 3, 4} if folders else {1, 3}
    found: dict[str, tuple[str, Span | None]] = {}
    for line in lines:
        words = line.replace(",", " ").split()
        ends = words[1:][-2:]
        if len(words) not in lengths or not all(end.isdecimal() for end in ends):
            raise DataError(f"expected {forms} in a line, got {line!r}")
        name = words[0]
        if name in found:
            raise DataError(f"expected each sequence once, got {name!r} twice")
        found[name] = (words[1] if len(words) == 4 else name, Span(*map(int, ends)) if ends else None)
    return found


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name.rpartition(".")[0])
    return int(digits[-1]) if digits else -1


def _told(span: Span) -> str:
    return f"from {span.first} to {span.last}"
