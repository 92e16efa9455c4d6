"""Training pairs that are made, not read: a bright square on noise, and a model small enough to train in a test."""

import numpy as np
import torch

from grm.config import parse_config
from grm.data.sample import Sample
from tests.grm.model.small import SMALL


class SquarePairs:
    """Samples as `grm.training.stream.EpochDataset` has them; the target is a square of one colour."""

    def __init__(self, length=64, template=32, search=64, seed=0):
        self.length, self.template, self.search, self.seed = length, template, search, seed
        # In shared memory, so that workers that run already see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self):
        return int(self._epoch)

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self._epoch.fill_(epoch)

    def __getitem__(self, index):
        random = np.random.default_rng([self.seed, self.epoch, index])
        color = random.integers(150, 256, 3)
        cx, cy, w, h = random.uniform([0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.35, 0.35])
        center = np.array([0.5, 0.5, 0.5, 0.5])
        return Sample(
            draw(random, self.template, center, color),
            draw(random, self.search, np.array([cx, cy, w, h]), color),
            torch.tensor([cx, cy, w, h], dtype=torch.float32),
            torch.tensor(center, dtype=torch.float32),
            torch.ones(2),
            f"squares epoch {self.epoch} index {index}",
        )


def draw(random, side, box, color):
    image = random.integers(0, 100, (3, side, side))
    x1, y1 = (side * (box[:2] - box[2:] / 2)).round().astype(int)
    x2, y2 = (side * (box[:2] + box[2:] / 2)).round().astype(int)
    image[:, y1:y2, x1:x2] = color[:, None, None]
    return torch.from_numpy(image.astype(np.uint8))


TRAINING = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "encoder_learning_rate": 1e-3,
    "clip_norm": 1.0,
    "workers": 0,
    "milestones": [1],
    "log_every": 2,
    "checkpoint_every": 3,
}


def training_config(*overrides, model=SMALL):
    return parse_config({"model": model, "training": TRAINING}, overrides)
