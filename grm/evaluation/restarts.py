"""The supervised protocol of VOT (2013 to 2019): a tracker that has lost its target is shown it again.

A failure is a frame without any overlap; five frames later the tracker is initialised with the true box. Accuracy is
the mean overlap without the ten frames from each initialisation on, which are easy; robustness is the number of
failures. Over sequences both are means by the number of frames.
"""

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes, has_box, iou
from ..data import VideoSequence
from ..errors import DataError
from .runner import FrameTracker, Look, Pass, Trajectory, complete

#: From a failure to the initialisation after it, in frames.
SKIPPED = 5
#: Frames from an initialisation on that do not count for the accuracy.
BURN_IN = 10


def with_restarts(sequence: VideoSequence) -> Pass:
    """A sequence in which a tracker starts anew after each failure.

    A frame without the target in sight is no failure, and none to show it in.

    Returns:
        boxes, NaN from a failure to the next initialisation, which has the true box; seconds, NaN in these frames, too.

    Raises:
        DataError: the first frame has no box, or a frame cannot be read.

    """
    truth, count = sequence.boxes, len(sequence)
    if not has_box(truth[0]):
        raise DataError(f"{sequence.name}: expected a box in the first frame")
    known = has_box(truth) & sequence.visible
    known[0] = True
    boxes, scores, seconds = np.full((count, 4), np.nan), np.full(count, np.nan), np.full(count, np.nan)
    start, tracking = 0, False
    for index in range(count):
        if not tracking and (index < start or not known[index]):
            continue
        result, taken = yield Look(sequence.frame(index), None if tracking else truth[index])
        if not tracking:
            boxes[index], tracking = truth[index], True
            continue
        scores[index], seconds[index] = getattr(result, "score", np.nan), taken
        if known[index] and not iou(result.box, truth[index]) > 0:
            start, tracking = index + SKIPPED, False
        else:
            boxes[index] = result.box
    return Trajectory(boxes, scores, seconds)


def track_with_restarts(tracker: FrameTracker, sequence: VideoSequence) -> Trajectory:
    """Tracks a sequence as `with_restarts` says; errors as of that, and of the tracker."""
    return complete(tracker, with_restarts(sequence))


def accuracy_and_failures(boxes: Boxes, truth: Boxes) -> tuple[float, int]:
    """Accuracy in [0, 1], 0 where no frame counts, and the number of failures of one sequence.

    Args:
        boxes: (N, 4) of `track_with_restarts`.
        truth: (N, 4), NaN where the target is not in sight.

    """
    there = has_box(boxes)
    before = np.concatenate([[False], there[:-1]])
    counted: NDArray[np.bool_] = there & has_box(truth)
    for start in np.flatnonzero(there & ~before):
        counted[start : start + BURN_IN] = False
    overlaps = iou(boxes[counted], truth[counted])
    return float(overlaps.mean()) if len(overlaps) else 0.0, int((before & ~there).sum())
