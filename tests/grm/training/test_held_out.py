"""Average overlap, with a tracker that is told what to answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from grm.errors import DataError
from grm.evaluation.runner import mean_overlap
from grm.training import Processes, held_out_evaluation

ALONE = Processes(0, 1, torch.device("cpu"))


class Video:
    """Frames are their numbers."""

    def __init__(self, boxes):
        self.name, self.boxes = "video", np.array(boxes, dtype=np.float64)

    def __len__(self):
        return len(self.boxes)

    def frame(self, index):
        return np.full((1, 1, 3), index, dtype=np.uint8)


class Shifted:
    """Answers the first box, moved to the right by so many pixels times the frame's number."""

    def __init__(self, step):
        self.step = step

    def initialize(self, frame, box):
        assert frame.max() == 0
        self.box = box

    def track(self, frame):
        return SimpleNamespace(box=self.box + np.array([self.step * frame.max(), 0, 0, 0]))


STILL = Video([[0, 0, 10, 10]] * 3)


def test_mean_over_all_frames_but_the_first():
    assert mean_overlap(Shifted(0), STILL) == 1
    assert mean_overlap(Shifted(5), STILL) == pytest.approx((50 / 150 + 0) / 2)


def test_frames_without_a_box_do_not_count():
    absent = Video([[0, 0, 10, 10], [np.nan] * 4, [10, 0, 10, 10]])
    assert mean_overlap(Shifted(5), absent) == 1
    for boxes in ([[np.nan] * 4, [0, 0, 1, 1]], [[0, 0, 1, 1], [np.nan] * 4]):
        with pytest.raises(DataError, match="video: expected a box in the first frame and in another"):
            mean_overlap(Shifted(0), Video(boxes))
        with pytest.raises(DataError, match="video: expected a box"):  # long before the first evaluation
            held_out_evaluation([STILL, Video(boxes)], lambda model: Shifted(0))


def test_mean_over_sequences_not_over_frames():
    moving = Video([[5 * i, 0, 10, 10] for i in range(11)])
    evaluate = held_out_evaluation([STILL, moving], lambda model: Shifted(5))
    results = evaluate(None, ALONE)
    assert results["ao"] == pytest.approx((1 / 6 + 1) / 2)
    assert results["ao_unmoved"] == pytest.approx((1 + (1 / 3) / 10) / 2)


def test_processes_share_the_sequences():
    class Half(Processes):
        def mean(self, values):
            seen.append(values.tolist())
            return values

    seen = []
    evaluate = held_out_evaluation([STILL, STILL, STILL], lambda model: Shifted(0))
    for rank in (0, 1):
        evaluate(None, Half(rank, 2, torch.device("cpu")))
    assert seen == [[2, 2, 2], [1, 1, 1]]
