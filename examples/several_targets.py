"""Tracks several targets of one clip as one batch, and one by one: the boxes are the same, the time is not.

    python examples/several_targets.py [FRAMES]

The targets are an object and three that look like it.
"""

import sys
import time

import numpy as np

import grm
from grm.boxes import iou
from grm.config import SyntheticConfig
from grm.data import synthetic_sequence


def main(frames: int = 30) -> float:
    """Tracks, and returns the mean overlap of the boxes of both ways."""
    clip = synthetic_sequence(SyntheticConfig(frames=max(frames, 20), distractors=(3, 3), passers=(0, 0)), seed=3)
    images = [clip.frame(index) for index in range(frames)]
    targets = np.stack([clip.boxes[0], *clip.other_boxes[:3, 0]])  # (4, 4): the target and three that look alike
    model = grm.load_model()

    start = time.perf_counter()
    tracker = grm.Tracker(model)
    tracker.initialize(images[0], targets)
    together = np.stack([tracker.track(image).box for image in images[1:]], axis=1)  # (4, frames - 1, 4)
    batch = time.perf_counter() - start

    start = time.perf_counter()
    alone = []
    for target in targets:
        tracker = grm.Tracker(model)
        tracker.initialize(images[0], target)
        alone.append([tracker.track(image).box for image in images[1:]])
    one_by_one = time.perf_counter() - start

    agreement = float(iou(together, np.array(alone)).mean())
    print(f"{len(targets)} targets, {frames} frames: mean overlap of the boxes of both ways {agreement:.4f}")
    print(f"as one batch {batch:.2f} s, one by one {one_by_one:.2f} s")
    return agreement


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
