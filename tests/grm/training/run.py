"""A small run in a process of its own: python -m tests.grm.training.run FOLDER RESUME [OVERRIDE ...]."""

import sys

import torch

from grm.training import Trainer, join_processes

from .pairs import SquarePairs, training_config

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, resume, *overrides = sys.argv[1:]
    with join_processes("cpu") as processes:
        Trainer(training_config(*overrides), SquarePairs(40), folder, processes).run(resume=resume == "resume")
