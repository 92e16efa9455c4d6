"""How well a model in training tracks: average overlap on held-out sequences."""

from collections.abc import Callable, Sequence

import torch

from ..data import VideoSequence
from ..evaluation.runner import FrameTracker, mean_overlap, unmoved_overlap
from ..model import GRM
from .distributed import Processes

#: Makes a tracker of a model.
TrackerFactory = Callable[[GRM], FrameTracker]
#: What the trainer calls every few epochs, on every process: of a model to named results.
Evaluation = Callable[[GRM, Processes], dict[str, float]]


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
