"""Tables of boxes, written frame by frame: CSV, JSON, and the text of MOTChallenge."""

import csv
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..files import Unfinished, naming

if TYPE_CHECKING:
    from ..boxes import Boxes
    from ..media.frames import Frame


class BoxTable(ABC):
    """A table that is in its place only when it is whole; see `grm.files.Unfinished`. Use it in a with statement.

    Args:
        path: of the file.

    """

    #: What the file begins and ends with.
    first: ClassVar[str] = ""
    last: ClassVar[str] = ""

    def __init__(self, path: Path):
        self.path = path
        self._place = Unfinished(path)

    def __enter__(self) -> "BoxTable":
        with naming(self.path):
            self._file = self._place.path.open("w", newline="", encoding="utf-8", buffering=1)
            self._file.write(self.first)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with naming(self.path), self._file:
            self._file.write(self.last)
        if kind is None:
            self._place.finish()

    def write(self, frame: "Frame", boxes: "Boxes", scores: list[float] | None) -> None:
        """Adds what was found in a frame.

        Args:
            frame: that it was found in.
            boxes: (M, 4) of the targets.
            scores: of the targets; None in the frame in which the boxes were given.

        """
        with naming(self.path):
            self.add(frame, boxes, scores)

    @abstractmethod
    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float] | None) -> None:
        """Writes a frame."""


class CsvTable(BoxTable):
    """A line for each frame and target: frame, target, x, y, w, h, score, time in seconds, file.

    Both are counted from 0. The score is empty where the box was given.
    """

    first = "frame,target,x,y,w,h,score,time,file\r\n"

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float] | None) -> None:
        writer = csv.writer(self._file)
        for target, box in enumerate(boxes):
            score = "" if scores is None else f"{scores[target]:.4f}"
            numbers = [f"{value:.3f}" for value in box]
            writer.writerow([frame.number, target, *numbers, score, f"{frame.time:.6f}", frame.file])


class JsonTable(BoxTable):
    """{"frames": [{"frame", "time", "file", "targets": [{"target", "box": [x, y, w, h], "score"}]}]}, as of `CsvTable`.

    The score is null where the box was given.
    """

    first, last = '{"frames": [', "\n]}\n"
    _separator = "\n"

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float] | None) -> None:
        targets = [
            {
                "target": target,
                "box": [round(float(value), 3) for value in box],
                "score": None if scores is None else round(float(scores[target]), 4),
            }
            for target, box in enumerate(boxes)
        ]
        values = {"frame": frame.number, "time": round(frame.time, 6), "file": frame.file, "targets": targets}
        self._file.write(self._separator + json.dumps(values))
        self._separator = ",\n"


class MotTable(BoxTable):
    """MOTChallenge's lines: frame, target, x, y, w, h, score, -1, -1, -1, in which all that is counted begins at 1.

    Pixels too (Leal-Taixé et al., "MOTChallenge 2015", section 3.1). The score is 1 where the box was given.
    """

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float] | None) -> None:
        for target, (x, y, width, height) in enumerate(boxes):
            score = 1 if scores is None else scores[target]
            numbers = f"{x + 1:.3f},{y + 1:.3f},{width:.3f},{height:.3f},{score:.4f}"
            self._file.write(f"{frame.number + 1},{target + 1},{numbers},-1,-1,-1\n")
