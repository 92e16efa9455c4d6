"""Walks data sets and reports what they hold, and what of it is missing or broken."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..boxes import can_be_cropped, has_box
from ..config import Config
from ..crop import Image
from ..errors import DataError
from ..media.images import list_frames, read_image, read_image_warned, read_with_opacity
from .readers.regions import Region
from .sequence import ImageSequence, Sequences, VideoSequence, check_trackable

# Rendered sequences have no files to break: so many tell enough.
_MAX_SYNTHETIC = 100


@dataclass
class Findings:
    """What was found in one data set."""

    #: Sequences listed, walked, and of the walked those that pairs are not drawn from (few frames, or few visible).
    listed: int = 0
    walked: int = 0
    too_short: int = 0
    #: Frames of the walked sequences; of those, with a box, and visible.
    frames: int = 0
    boxes: int = 0
    visible: int = 0
    #: Images that were opened, and boxes in them that reach over the edge of the frame.
    opened: int = 0
    over_edge: int = 0
    #: What is missing or broken, with its path, a line each.
    faults: list[str] = field(default_factory=list)


def check_dataset(
    sequences: Sequences[Any],
    config: Config,
    *,
    held_out: bool = False,
    every: int = 100,
    advance: Callable[[], object] = lambda: None,
) -> Findings:
    """Walks one data set. Every image must be there; some are opened.

    Args:
        sequences: of the data set. Of more than 100 synthetic ones the first 100 are walked, of the regions of pictures
            one of each picture.
        config: how long sequences to train on have to be.
        held_out: they are to be tracked, not trained on.
        every: one image of so many is opened, and the first of each video.
        advance: called after each sequence.

    """
    found = Findings(listed=len(sequences), faults=list(sequences.faults))
    for i in range(len(sequences)):
        try:
            sequence = sequences[i]
        except DataError as error:
            if str(error) in found.faults:  # what ails one ails all
                break
            found.faults.append(str(error))
            continue
        if _told_enough(sequence, i):
            break
        found.walked += 1
        try:
            _check_annotation(sequence, sequences.still, config, found, held_out=held_out)
        except DataError as error:
            found.faults.append(str(error))
        else:
            _check_frames(sequence, sequences.still, every, found)
        advance()
    if found.walked and found.too_short == found.walked:
        data = config.data
        found.faults.append(f"no sequence has {data.min_frames} frames with {data.min_visible} of them visible")
    return found


def check_folder(folder: Path, *, opacity: bool = False) -> Findings:
    """Opens the pictures of a folder for rendered video.

    Args:
        folder: of photographs, or of cut-outs.
        opacity: these are cut-outs.

    Raises:
        DataError: there are none.

    """
    names = list_frames(folder)
    found = Findings(listed=len(names))
    for name in names:
        try:
            (read_with_opacity if opacity else read_image)(folder / name)
        except DataError as error:
            found.faults.append(str(error))
        else:
            found.opened += 1
    return found


def _told_enough(sequence: VideoSequence, index: int) -> bool:
    if isinstance(sequence, Region):
        return sequence.number > 0
    return not isinstance(sequence, ImageSequence) and index == _MAX_SYNTHETIC


def _check_annotation(sequence: VideoSequence, still: bool, config: Config, found: Findings, *, held_out: bool) -> None:
    visible, boxes = int(sequence.visible.sum()), int(has_box(sequence.boxes).sum())
    usable = still or held_out or (len(sequence) >= config.data.min_frames and visible >= config.data.min_visible)
    found.visible, found.boxes = found.visible + visible, found.boxes + boxes
    found.too_short += not usable
    if held_out:
        try:
            check_trackable(sequence)
        except DataError as error:  # its frames are looked at all the same
            found.faults.append(str(error))


def _check_frames(sequence: VideoSequence, still: bool, every: int, found: Findings) -> None:
    for i in range(len(sequence)):
        opens = found.frames % every == 0 or (i == 0 and not still)
        found.frames += 1
        if opens:
            try:
                image, damaged = _opened(sequence, i)
            except DataError as error:
                found.faults.append(str(error))
                continue
            found.opened += 1
            if damaged:
                found.faults.append(f"{sequence.name} frame {i}: damaged, says the decoder of its image")
            _check_box(sequence, i, image.shape[1], image.shape[0], found)
        elif isinstance(sequence, ImageSequence) and not sequence.path(i).exists():
            found.faults.append(f"{sequence.path(i)}: missing")


def _opened(sequence: VideoSequence, index: int) -> tuple[Image, bool]:
    """A frame, and whether its file is known to be damaged."""
    if isinstance(sequence, ImageSequence):
        return read_image_warned(sequence.path(index))
    return sequence.frame(index), False


def _check_box(sequence: VideoSequence, index: int, width: int, height: int, found: Findings) -> None:
    low, size = sequence.boxes[index, :2], sequence.boxes[index, 2:]
    limit = np.array([width, height])
    box = ", ".join(f"{value:g}" for value in sequence.boxes[index])
    if sequence.visible[index] and ((low >= limit) | (low + size <= 0)).any():
        found.faults.append(f"{sequence.name} frame {index}: the box {box} is outside of {width} x {height} pixels")
    elif sequence.visible[index] and not can_be_cropped(sequence.boxes[index]):
        found.faults.append(f"{sequence.name} frame {index}: the box {box} is too large or too small to be cropped")
    # A box may end on the far side of the last pixel; data sets that count from 1 are one pixel off.
    found.over_edge += bool(((low < -1) | (low + size > limit + 1)).any())
