"""Sequences written to disk: as a folder that `grm.data.folder` reads, or as a video to look at."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from ..crop import Image
from ..errors import DataError
from ..files import filling
from ..media.images import write_image
from ..media.writer import VideoWriter
from .readers.folder import BOXES
from .readers.lasot import FLAGS
from .sequence import VideoSequence

_GREEN, _RED = (0, 255, 0), (255, 0, 0)


def export_folder(sequence: VideoSequence, folder: Path, *, draw: bool = False) -> None:
    """Writes `00000001.jpg` ..., `groundtruth.txt` (NaN where there is no box) and `full_occlusion.txt` (not visible).

    Args:
        sequence: what to write.
        folder: new, or empty. Until it is whole it is called `NAME.unfinished`.
        draw: also draw the boxes into the frames.

    Raises:
        DataError: the folder is not empty.

    """
    with filling(folder, DataError) as place:
        for i in range(len(sequence)):
            write_image(place / f"{i + 1:08d}.jpg", _frame(sequence, i, draw))
        np.savetxt(place / BOXES, sequence.boxes, fmt="%.3f", delimiter=",")
        np.savetxt(place / FLAGS[0], ~sequence.visible[None], fmt="%d", delimiter=",")


def export_video(sequence: VideoSequence, path: Path, *, draw: bool = False, rate: int = 30) -> None:
    """Writes a video.

    Args:
        sequence: what to write.
        path: of the file; it is replaced.
        draw: also draw the boxes.
        rate: frames a second.

    Raises:
        MediaError: as of `VideoWriter`.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(rate)) as video:
        for i in range(len(sequence)):
            video.write(_frame(sequence, i, draw))


def _frame(sequence: VideoSequence, index: int, draw: bool) -> Image:
    """A frame, with its box in green where the target is visible, in red where it is hidden."""
    frame, box = sequence.frame(index), sequence.boxes[index]
    if draw and np.isfinite(box).all():
        first, last = np.round(box[:2]).astype(int), np.round(box[:2] + box[2:]).astype(int) - 1
        color = _GREEN if sequence.visible[index] else _RED
        cv2.rectangle(frame, first.tolist(), last.tolist(), color)
    return frame
