"""Sequences and results that the tests of evaluation are made of."""

import numpy as np

from grm.evaluation.runner import Trajectory


class Clip:
    """Frames of one colour; the target moves to the right by two pixels a frame."""

    def __init__(self, name, count=6, start=5.0, absent=()):
        self.name = name
        self.boxes = np.array([[start + 2 * i, 6, 20, 16] for i in range(count)], dtype=float)
        self.boxes[list(absent)] = np.nan
        self.visible = np.isfinite(self.boxes).all(-1)

    def __len__(self):
        return len(self.boxes)

    def frame(self, index):
        return np.full((48, 64, 3), index, dtype=np.uint8)


def trajectory(clip, shift=0.0, seconds=0.5):
    """The true boxes, or those of the frame before, moved to the right."""
    boxes = clip.boxes.copy()
    boxes[np.isnan(boxes)] = 1
    boxes[1:, 0] += shift
    return Trajectory(boxes, np.array([np.nan] + [0.75] * (len(clip) - 1)), np.full(len(clip), seconds))
