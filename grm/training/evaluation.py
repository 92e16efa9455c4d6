"""How well a model in training tracks: average overlap on held-out sequences."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..boxes import Boxes, iou
from ..data import DataError
from ..data import Sequence as VideoSequence
from ..data.annotations import has_box
from ..model import GRM
from .distributed import Processes


class SingleTargetTracker(Protocol):
    """What is asked of `grm.tracking.Tracker`."""

    def initialize(self, frame: NDArray[np.uint8], box: Boxes) -> None:
        """Shows it its target."""

    def track(self, frame: NDArray[np.uint8]) -> object:
        """Finds the target; the result has a `box`."""


#: Makes a tracker of a model.
TrackerFactory = Callable[[GRM], SingleTargetTracker]
#: What the trainer calls every few epochs, on every process: of a model to named results.
Evaluation = Callable[[GRM, Processes], dict[str, float]]


def mean_overlap(tracker: SingleTargetTracker, sequence: VideoSequence) -> float:
    """Mean IoU over all frames but the first, whose box the tracker is given. Frames without a box do not count.

    Raises:
        DataError: there is no box in the first frame, or in no other; or a frame cannot be read.

    """
    counted = _counted(sequence)
    tracker.initialize(sequence.frame(0), sequence.boxes[0])
    tracked = np.stack([tracker.track(sequence.frame(i)).box for i in range(1, len(sequence))])
    return float(iou(tracked[counted], sequence.boxes[1:][counted]).mean())


def unmoved_overlap(sequence: VideoSequence) -> float:
    """`mean_overlap` of a tracker that leaves the first box where it is: how hard the sequence is."""
    return float(iou(sequence.boxes[0], sequence.boxes[1:][_counted(sequence)]).mean())


def _counted(sequence: VideoSequence) -> NDArray[np.bool_]:
    known = has_box(sequence.boxes)
    if not known[0] or not known[1:].any():
        raise DataError(f"{sequence.name}: expected a box in the first frame and in another")
    return known[1:]


def held_out_evaluation(sequences: Sequence[VideoSequence], make_tracker: TrackerFactory) -> Evaluation:
    """An evaluation for the trainer: "ao", the mean over sequences of `mean_overlap`, and "ao_unmoved", of their
    `unmoved_overlap`. Processes share the sequences.

    Raises:
        DataError: at once, rather than after hours of training: annotations that are broken or have too few boxes.

    """
    unmoved = [unmoved_overlap(sequence) for sequence in sequences]

    def evaluate(model: GRM, processes: Processes) -> dict[str, float]:
        tracker = make_tracker(model)
        overlaps = [
            (mean_overlap(tracker, sequences[i]), unmoved[i], 1.0)
            for i in range(processes.rank, len(sequences), processes.count)
        ]
        sums = torch.tensor(overlaps, dtype=torch.float32, device=processes.device).reshape(-1, 3).sum(0)
        ao, ao_unmoved, share = processes.mean(sums).tolist()
        return {"ao": ao / share, "ao_unmoved": ao_unmoved / share}

    return evaluate
