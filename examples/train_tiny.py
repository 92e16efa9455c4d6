"""Trains a tracker on rendered video, from nothing, for about a minute, and shows what that brings.

    python examples/train_tiny.py [FOLDER [STEPS]]

A minute is enough to see the loss fall, not to track: `grm train synthetic_tiny` takes an hour for that.
"""

import sys
from pathlib import Path

from grm.config import load_config
from grm.data import training_pairs
from grm.training import Trainer, join_processes, read_log

BATCH = 16
#: A quarter of synthetic_tiny's pixels, and half of its layers.
SMALLER = (
    "model.template.size=64",
    "model.search.size=128",
    "model.encoder.depth=4",
    "model.encoder.width=96",
    f"training.batch_size={BATCH}",
    "training.epochs=1",
    "training.warmup=20",
    "training.workers=0",
    "training.log_every=5",
    "training.evaluate_every=0",
    "training.checkpoint_every=1000",
    "training.precision=float32",
)


def main(folder: str = "runs/example", steps: int = 200) -> list[float]:
    """Trains, and returns the losses that the log has, first to last."""
    config = load_config("synthetic_tiny", [*SMALLER, f"data.samples_per_epoch={BATCH * steps}"])
    with join_processes("cpu") as processes:
        result = Trainer(config, training_pairs(config, seed=0), folder, processes).run()
    losses = [line["total"] for line in read_log(Path(folder)) if "total" in line]
    print(f"{result.step} steps: loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last")
    print(f"weights, log and pictures: {folder}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
