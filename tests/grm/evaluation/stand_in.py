"""A cheap tracker and a run of it, to be started as a process of its own and killed: FOLDER, sequences, processes.

With "synthetic" as a fourth word the sequences are rendered ones.
"""

import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from grm.config import SyntheticConfig
from grm.evaluation.benchmarks import open_benchmark
from grm.evaluation.pool import plan_run, run_sequences
from grm.evaluation.results import RunFolder

IDENTITY = {"benchmark": "stand-in", "weights": "none"}


class Video:
    """Frames of noise, a pure function of the number of the video."""

    def __init__(self, number, frames):
        self.name = f"video-{number}"
        rng = np.random.default_rng(number)
        self._seed = number
        self.boxes = np.array([100, 100, 80, 60]) + np.cumsum(rng.normal(0, 2, (frames, 4)), axis=0)
        self.boxes[:, 2:] = np.clip(self.boxes[:, 2:], 20, 200)
        self.visible = np.ones(frames, dtype=bool)

    def __len__(self):
        return len(self.boxes)

    def frame(self, index):
        return np.random.default_rng((self._seed, index)).integers(0, 256, (8, 8, 3), dtype=np.uint8)


class Videos:
    """Some of them."""

    def __init__(self, count, frames=20):
        self.count, self.frames = count, frames

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if not 0 <= number < self.count:
            raise IndexError(number)
        return Video(number, self.frames + number % 7)


class Drifting:
    """Moves its box by what it sees; takes a moment for each frame."""

    def __init__(self, pause=0.0):
        self.pause = pause

    def initialize(self, frame, box):
        self.box = np.array(box)

    def track(self, frame):
        time.sleep(self.pause)
        self.box = self.box + (frame.reshape(-1, 3).mean(0) @ np.eye(3, 4) - 127) / 20
        return SimpleNamespace(box=self.box, score=frame.mean() / 255)


def make_tracker(number, pause=0.0):
    """A factory that can be pickled."""
    return Drifting(pause)


def evaluate(folder, videos, processes, pause=0.0):
    """One run, or what is left of it; all outcomes."""
    run = RunFolder(Path(folder), IDENTITY)
    plan = plan_run(videos, run)
    return [
        *plan.known,
        *run_sequences(videos, plan.left, run, partial(make_tracker, pause=pause), processes=processes),
    ]


def rendered(count):
    """Synthetic sequences that are quick to render."""
    config = SyntheticConfig(width=64, height=64, frames=20, size=(16, 24), passers=(0, 1), occlusions=(0, 1))
    return open_benchmark("synthetic", None, synthetic=config, limit=count)


if __name__ == "__main__":
    count = int(sys.argv[2])
    videos = rendered(count) if sys.argv[4:] == ["synthetic"] else Videos(count)
    outcomes = evaluate(sys.argv[1], videos, int(sys.argv[3]), pause=5e-4)
    sys.exit(any(outcome.fault for outcome in outcomes))
