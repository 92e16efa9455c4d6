"""What a tracker bears: ``python -m benchmarks.robustness [--weights FILE] [--count N]``.

The same held-out synthetic sequences again and again, each time with something else that goes wrong. What the scores
are worth is told by their running mean and the bounds that the weights keep, see `grm bounds`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import machine, record
from benchmarks.learning import RIGHT, track
from grm.config import SyntheticConfig
from grm.data.synthetic import HELD_OUT, SyntheticSequence, synthetic_sequence
from grm.evaluation.failures import lost_at
from grm.evaluation.presence import presence
from grm.model import load_model
from grm.tracking import Tracker
from grm.tracking.certainty import LOST, running_means, states_of
from grm.weights import DEFAULT, find_weights

#: What goes wrong, and the keys of `SyntheticConfig` that make it so.
CASES: dict[str, dict[str, object]] = {
    "nothing more than usual": {},
    "3 of 10 frames lost": {"dropped": 0.3},
    "6 of 10 frames lost": {"dropped": 0.6},
    "blur of 8 to 12 pixels": {"blur": 1.0, "blur_width": (8.0, 12.0)},
    "noise, deviation 30 of 255": {"noise": (30.0, 30.0)},
    "JPEG of quality 5": {"quality": (5.0, 5.0)},
    "black twice, 2 to 8 frames": {"blackouts": (2, 2)},
    "out of view and back, once": {"absences": (1, 1)},
}


class Followed:
    """A sequence as a tracker followed it; frames after the first."""

    def __init__(self, tracker: Tracker, sequence: SyntheticSequence) -> None:
        tracked = track(tracker, sequence)
        self.scores = tracked.scores
        #: (N - 1,) overlap with the truth; NaN where the target is not in sight.
        self.overlap: NDArray[np.float64] = np.where(sequence.visible[1:], tracked.overlap, np.nan)
        self.held = self.overlap > RIGHT
        self.lost = lost_at(self.overlap)

    @property
    def found_again(self) -> bool:
        """Whether it was lost and held later."""
        return self.lost is not None and bool(self.held[self.lost :].any())


def describe(tracker: Tracker, changes: dict[str, object], usual: list[float], count: int) -> dict:
    """The record of one case.

    Args:
        tracker: of the weights.
        changes: of the usual difficulty.
        usual: mean overlap of each sequence without them; filled if it is empty.
        count: sequences.

    """
    config = SyntheticConfig(**changes)
    followed = [Followed(tracker, synthetic_sequence(config, HELD_OUT + seed)) for seed in range(count)]
    each = [float(np.nanmean(one.overlap)) for one in followed]
    if not usual:
        usual += each
    gaps = np.array(each) - usual
    means, held = [running_means(one.scores) for one in followed], [one.held for one in followed]
    found = presence(means, held)
    said_lost = states_of(np.concatenate(means), tracker.config.certainty) == LOST
    is_held = np.concatenate(held)
    return {
        "changes": changes,
        "frames": len(is_held),
        "ao": float(np.mean(each)),
        "difference": float(gaps.mean()),
        "standard_error": float(gaps.std(ddof=1) / count**0.5) if count > 1 else None,
        "lost": sum(one.lost is not None for one in followed),
        "found_again": sum(one.found_again for one in followed),
        "auc": None if found is None else found.auc,
        "called_lost": {
            name: float(said_lost[which].mean()) if which.any() else None
            for name, which in (("held", is_held), ("other", ~is_held))
        },
    }


def run(weights: Path, dtype: torch.dtype, count: int) -> dict:
    """Measures all cases on the first `count` held-out sequences, and returns the record."""
    tracker = Tracker(load_model(weights), dtype=dtype)
    usual: list[float] = []
    return {
        "kind": "robustness",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "weights": record.file_hash(weights),
        "dtype": str(dtype).removeprefix("torch."),
        "sequences": count,
        "bounds": tracker.config.certainty.model_dump(),
        "cases": {name: describe(tracker, changes, usual, count) for name, changes in CASES.items()},
    }


def main() -> None:
    """Measures, prints the table and writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=find_weights, default=DEFAULT, help="a file or a name (default: %(default)s)")
    parser.add_argument("--count", type=int, default=16, help="held-out synthetic sequences (default 16)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    options = parser.parse_args()
    measured = run(options.weights, getattr(torch, options.dtype), options.count)
    path = options.output / f"robustness_{options.dtype}.json"
    record.finish(measured, path)


if __name__ == "__main__":
    main()
