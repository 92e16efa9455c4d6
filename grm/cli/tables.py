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
            # The name of a file may be no UTF-8; it is written as it is.
            self._file = self._place.path.open("w", newline="", encoding="utf-8", errors="surrogateescape", buffering=1)
            self._file.write(self.first)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with naming(self.path), self._file:
            self._file.write(self.last)
        if kind is None:
            self._place.finish()

    def write(self, frame: "Frame", boxes: "Boxes", scores: list[float | None], states: list[str]) -> None:
        """Adds what was found in a frame.

        Args:
            frame: that it was found in.
            boxes: (M, 4) of the targets.
            scores: of the targets; None where the box was given.
            states: of the targets; "" where the box was given, or the weights do not say what a score means.

        """
        with naming(self.path):
            self.add(frame, boxes, scores, states)

    @abstractmethod
    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float | None], states: list[str]) -> None:
        """Writes a frame: boxes (M, 4), scores and states of the targets; None and "" where there are none."""


class CsvTable(BoxTable):
    """A line for each frame and target: frame, target, x, y, w, h, score, time in seconds, file, state.

    Both are counted from 0. The score is empty where the box was given; so is the state (held, uncertain, lost), and
    also where the weights do not say what a score means.
    """

    first = "frame,target,x,y,w,h,score,time,file,state\r\n"

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float | None], states: list[str]) -> None:
        """Writes a line for each target."""
        writer = csv.writer(self._file)
        for target, (box, score, state) in enumerate(zip(boxes, scores, states, strict=True)):
            numbers = [f"{value:.3f}" for value in box]
            numbers += ["" if score is None else f"{score:.4f}", f"{frame.time:.6f}"]
            writer.writerow([frame.number, target, *numbers, frame.file, state])


class JsonTable(BoxTable):
    """{"frames": [{"frame", "time", "file", "targets": [{"target", "box": [x, y, w, h], "score", "state"}]}]}.

    All as of `CsvTable`, null where it is empty there.
    """

    first, last = '{"frames": [', "\n]}\n"
    _separator = "\n"

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float | None], states: list[str]) -> None:
        """Writes the frame as one object."""
        targets = [
            {
                "target": target,
                "box": [round(float(value), 3) for value in box],
                "score": None if score is None else round(score, 4),
                "state": state or None,
            }
            for target, (box, score, state) in enumerate(zip(boxes, scores, states, strict=True))
        ]
        values = {"frame": frame.number, "time": round(frame.time, 6), "file": frame.file, "targets": targets}
        self._file.write(self._separator + json.dumps(values))
        self._separator = ",\n"


class MotTable(BoxTable):
    """MOTChallenge's lines: frame, target, x, y, w, h, score, -1, -1, -1, in which all that is counted begins at 1.

    Pixels too (Leal-Taixé et al., "MOTChallenge 2015", section 3.1). The score is 1 where the box was given.
    """

    def add(self, frame: "Frame", boxes: "Boxes", scores: list[float | None], states: list[str]) -> None:
        """Writes a line for each target."""
        for target, ((x, y, width, height), score) in enumerate(zip(boxes, scores, strict=True)):
            numbers = f"{x + 1:.3f},{y + 1:.3f},{width:.3f},{height:.3f},{1 if score is None else score:.4f}"
            self._file.write(f"{frame.number + 1},{target + 1},{numbers},-1,-1,-1\n")
