"""A small run in a process of its own: python -m tests.grm.training.run FOLDER RESUME [OVERRIDE ...]."""

import sys
from pathlib import Path

import torch

from grm.training import Trainer, join_processes

from .pairs import SquarePairs, training_config


def spread(model, processes):
    """How far the processes' models are apart: mean distance of the sum of all they hold from its mean."""
    total = sum(value.double().sum() for value in model.state_dict().values())
    distance = (total - processes.mean(total.clone())).abs()
    return {"ao": 0.0, "spread": processes.mean(distance).item()}


def threads():
    """Names of this process's threads, as Linux knows them."""
    return {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, resume, *overrides = sys.argv[1:]
    with join_processes("cpu") as processes:
        evaluate = spread if "training.evaluate_every=1" in overrides else None
        trainer = Trainer(training_config(*overrides), SquarePairs(40), folder, processes, evaluate=evaluate)
        trainer.run(resume=resume == "resume")
    # The trainer is still there, and nothing of the group: a thread of it could abort the process as it ends.
    if left := {name for name in threads() if "gloo" in name}:
        raise SystemExit(f"threads of the group are left: {left}")
