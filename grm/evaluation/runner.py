"""The one loop over the frames of a video: initialise a tracker, track, compare with the truth."""

import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes, has_box, iou
from ..crop import Image
from ..data import VideoSequence
from ..data.sequence import check_trackable
from ..errors import DataError


class FrameTracker(Protocol):
    """What is asked of a tracker, `grm.tracking.Tracker` or another."""

    def initialize(self, frame: Image, box: Boxes) -> None:
        """Shows it its target, or its targets."""

    def track(self, frame: Image) -> Any:
        """Finds them in the next frame; the result has a `box`, and a `score` where it knows one."""


class Step(NamedTuple):
    """One frame of a video and what a tracker said of it."""

    #: Number of the frame; the first is 0.
    number: int
    frame: Image
    #: What `track` returned; None in the first frame, whose box was given.
    result: Any
    #: Seconds that the tracker took, reading the frame not included.
    seconds: float


class Trajectory(NamedTuple):
    """One target through a sequence of N frames."""

    #: (N, 4) x, y, width, height in pixels; the first is the one that was given.
    boxes: Boxes
    #: (N,) of the tracker; NaN in the first frame, and where it gives none.
    scores: NDArray[np.float64]
    #: (N,) seconds that the tracker took for each frame, reading it not included; NaN where it did not track. Of
    #: several sequences that are tracked at once, an equal share of the time of all their frames.
    seconds: NDArray[np.float64]

    @property
    def tracked_seconds(self) -> NDArray[np.float64]:
        """Seconds of the frames that were tracked; the first shows the target and is not."""
        later = self.seconds[1:]
        return later[np.isfinite(later)]


class Look(NamedTuple):
    """What is to be done next with a frame."""

    frame: Image
    #: (4,) of the target that the tracker is to be shown there; None: it is to find it.
    box: Boxes | None = None


class Seen(NamedTuple):
    """What came of it."""

    #: What `track` returned; None where the tracker was shown its target.
    result: Any
    #: Seconds that the tracker took.
    seconds: float


#: A sequence under some protocol: asks for one look after the other, is sent what was seen, and ends with what came of
#: all. Whoever looks may do so for several sequences at once.
Pass = Generator[Look, Seen, Trajectory]


def look_once(tracker: FrameTracker, look: Look) -> Seen:
    """Has a tracker do what is asked."""
    start = time.perf_counter()
    result = None
    if look.box is None:
        result = tracker.track(look.frame)
    else:
        tracker.initialize(look.frame, look.box)
    return Seen(result, time.perf_counter() - start)


def complete(tracker: FrameTracker, going: Pass) -> Trajectory:
    """Does all that a sequence asks for, with one tracker."""
    try:
        look = next(going)
        while True:
            look = going.send(look_once(tracker, look))
    except StopIteration as end:
        trajectory: Trajectory = end.value
        return trajectory


def follow(tracker: FrameTracker, frames: Iterable[Image], box: Boxes) -> Iterator[Step]:
    """Initialises a tracker in the first frame and tracks through the others, a step for each frame.

    Args:
        tracker: forgets what it tracked before.
        frames: read as the steps are asked for.
        box: (4,) of the target, or (M, 4) of several, in the first frame.

    """
    for number, frame in enumerate(frames):
        seen = look_once(tracker, Look(frame, None if number else box))
        yield Step(number, frame, seen.result, seen.seconds)


def one_pass(sequence: VideoSequence) -> Pass:
    """One pass evaluation: from the first box of a sequence to its last frame.

    Raises:
        DataError: the first frame has no box, or a frame cannot be read.

    """
    box = sequence.boxes[0]
    if not has_box(box):
        raise DataError(f"{sequence.name}: expected a box in the first frame")
    first = yield Look(sequence.frame(0), box)
    boxes, scores, seconds = [box], [np.nan], [first.seconds]
    for index in range(1, len(sequence)):
        # No more of a result is kept: with a division, those of a long video would not fit in memory.
        seen = yield Look(sequence.frame(index))
        boxes.append(seen.result.box)
        scores.append(float(getattr(seen.result, "score", np.nan)))
        seconds.append(seen.seconds)
    return Trajectory(np.stack(boxes), np.array(scores), np.array(seconds))


def track_sequence(tracker: FrameTracker, sequence: VideoSequence) -> Trajectory:
    """Tracks a sequence in one pass; errors as of `one_pass`, and of the tracker."""
    return complete(tracker, one_pass(sequence))


def overlaps(boxes: Boxes, sequence: VideoSequence) -> NDArray[np.float64]:
    """IoU of boxes (N, 4) with those of a sequence, frame by frame: (N,), NaN where the target has no box."""
    return np.where(has_box(sequence.boxes), iou(boxes, sequence.boxes), np.nan)


def mean_overlap(tracker: FrameTracker, sequence: VideoSequence) -> float:
    """Mean IoU over all frames but the first, whose box the tracker is given. Frames without a box do not count.

    Raises:
        DataError: there is no box in the first frame, or in no other; or a frame cannot be read.

    """
    check_trackable(sequence)
    return float(np.nanmean(overlaps(track_sequence(tracker, sequence).boxes, sequence)[1:]))


def unmoved_overlap(sequence: VideoSequence) -> float:
    """`mean_overlap` of a tracker that leaves the first box where it is: how hard the sequence is."""
    check_trackable(sequence)
    return float(np.nanmean(overlaps(np.broadcast_to(sequence.boxes[0], sequence.boxes.shape), sequence)[1:]))
