"""What trained weights track, and what they lose: ``python -m benchmarks.learning WEIGHTS [--sequences FOLDER]``.

On held-out synthetic sequences, where it is known what hides the target and where everything else is; and, if given, on
folders of frames with boxes. The figures of `docs/training.md` are those of its record.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import machine, record
from grm.boxes import iou
from grm.config import SyntheticConfig
from grm.data import VideoSequence
from grm.data.readers.folder import folder
from grm.data.synthetic import HELD_OUT, SyntheticSequence, synthetic_sequence
from grm.errors import DataError
from grm.evaluation.failures import LOST_FRAMES, LOST_OVERLAP, lost_at
from grm.evaluation.runner import follow, overlaps, unmoved_overlap
from grm.model import load_model
from grm.tracking import Tracker
from grm.weights import find_weights
from grm_kernels import Category

#: It counts as hidden where less of it is seen; a loss is that of a hidden target if it was so then, or in so many
#: frames before.
HIDDEN, BEFORE = 0.5, 5
#: The box is on something from this overlap on.
ON = 0.3
#: Overlap of a box that is right enough for its size, and its score, to say something.
RIGHT = 0.5


class Tracked(NamedTuple):
    """What a tracker said of the frames of a sequence after the first."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    #: (frames, layers) the share of the search tokens in A.
    shares: NDArray[np.float64]
    #: Overlap with the truth; NaN where there is none.
    overlap: NDArray[np.float64]


def track(tracker: Tracker, sequence: VideoSequence) -> Tracked:
    """Tracks a sequence from its first box."""
    frames = (sequence.frame(i) for i in range(len(sequence)))
    results = [step.result for step in follow(tracker, frames, sequence.boxes[0])][1:]
    boxes = np.stack([result.box for result in results])
    overlap = overlaps(np.stack([sequence.boxes[0], *boxes]), sequence)[1:]
    shares = np.array([(result.division == Category.A).mean((1, 2)) for result in results])
    return Tracked(boxes, np.array([float(result.score) for result in results]), shares, overlap)


def loss_of(tracked: Tracked, sequence: SyntheticSequence) -> dict[str, bool] | None:
    """How the target was lost, if it was: was it hidden, was the box on another object then, was it found again?"""
    start = lost_at(tracked.overlap)
    if start is None:
        return None
    during = slice(start, start + LOST_FRAMES)
    # Frame i of the sequence is i - 1 of what was tracked.
    shown = sequence.shown[max(0, start + 1 - BEFORE) : start + 2]
    others = iou(sequence.other_boxes[:, 1:][:, during], tracked.boxes[during])
    return {
        "hidden": bool(shown.min() < HIDDEN),
        "on_another": bool((others > ON).any()),
        "found_again": bool((tracked.overlap[start + LOST_FRAMES :] > RIGHT).any()),
    }


def describe_synthetic(tracker: Tracker, config: SyntheticConfig, count: int) -> dict:
    """The record of the first `count` held-out sequences."""
    sequences = [synthetic_sequence(config, HELD_OUT + seed) for seed in range(count)]
    tracked = [track(tracker, sequence) for sequence in sequences]
    scores = np.array([np.nanmean(one.overlap) for one in tracked])
    losses = [found for found in map(loss_of, tracked, sequences) if found]
    overlap, score = (np.concatenate([getattr(one, name) for one in tracked]) for name in ("overlap", "scores"))
    shown = np.concatenate([sequence.shown[1:] for sequence in sequences])
    extent = np.concatenate([one.boxes[:, 2:] for one in tracked])
    true_extent = np.concatenate([sequence.boxes[1:, 2:] for sequence in sequences])
    right = overlap > RIGHT
    kinds = {
        "on the target": right & (shown >= HIDDEN),
        "target hidden": shown < HIDDEN,
        "elsewhere": (overlap < LOST_OVERLAP) & (shown >= HIDDEN),
    }
    return {
        "sequences": count,
        "ao": scores.mean(),
        "ao_of_the_first_20": scores[:20].mean(),
        "standard_error": scores.std(ddof=1) / count**0.5 if count > 1 else None,
        "ao_unmoved": np.mean([unmoved_overlap(sequence) for sequence in sequences]),
        "lost": {"sequences": len(losses), **{name: sum(x[name] for x in losses) for name in (losses or [{}])[0]}},
        "size": float(np.exp(np.log(extent[right] / true_extent[right]).mean())) if right.any() else None,
        "median_score": {name: float(np.median(score[where])) for name, where in kinds.items() if where.any()},
        "share_of_a": np.concatenate([one.shares for one in tracked]).mean(0).tolist(),
    }


def describe_folders(tracker: Tracker, root: Path) -> dict:
    """The record of a folder of frames with boxes, or of one of such folders."""
    rows = {}
    for sequence in folder(root, "all", None):
        overlap = float(np.nanmean(track(tracker, sequence).overlap))
        rows[sequence.name] = {"frames": len(sequence), "ao": overlap, "ao_unmoved": unmoved_overlap(sequence)}
    if not rows:
        raise DataError(f"{root}: neither groundtruth.txt nor a folder that has one")
    means = {name: float(np.mean([row[name] for row in rows.values()])) for name in ("ao", "ao_unmoved")}
    return {"sequences": rows, **means}


def run(weights: Path, dtype: torch.dtype, count: int, sequences: Path | None) -> dict:
    """Measures all, and returns the record."""
    tracker = Tracker(load_model(weights), dtype=dtype)
    result = {
        "kind": "learning",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "weights": record.file_hash(weights),
        "dtype": str(dtype).removeprefix("torch."),
        "synthetic": describe_synthetic(tracker, SyntheticConfig(), count),
    }
    return result | ({"folders": describe_folders(tracker, sequences)} if sequences else {})


def main() -> None:
    """Measures, prints the table and writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=find_weights, help="of a model, as `grm train` writes them, or a name")
    parser.add_argument("--count", type=int, default=60, help="held-out synthetic sequences (default 60)")
    parser.add_argument("--sequences", type=Path, help="a folder of frames with groundtruth.txt, or of such folders")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    options = parser.parse_args()
    measured = run(options.weights, getattr(torch, options.dtype), options.count, options.sequences)
    path = options.output / f"learning_{options.dtype}.json"
    record.finish(measured, path)


if __name__ == "__main__":
    main()
