"""Training pairs: a template and a search region of one target, drawn and augmented by the published rules.

A sample is a pure function of (seed, epoch, index), whichever process draws it and whatever was drawn before.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..boxes import Boxes, can_be_cropped
from ..config import Config, CropConfig, DataConfig, ModelConfig
from ..crop import Image, crop_image, crop_region
from ..errors import DataError
from .augmentation import (
    degraded,
    jitter_box,
    mirror_box,
    mirror_label,
    mirrored,
    recolored,
    stretched,
    without_color,
)
from .datasets import open_datasets, rendering
from .pasting import with_others
from .sample import Sample
from .sequence import Sequences, VideoSequence
from .synthetic.cutout import Cutout, cutouts

log = logging.getLogger(__name__)

# After so many draws in a row of something that cannot be used but is not broken, a data set is of no use.
_FRUITLESS = 1000
# The search frame may come so much later than `max_gap` for each try that found none.
_GAP_STEP = 5


class _NothingToDrawError(DataError):
    """Drawing on would not help."""


class _Choice(NamedTuple):
    """The two frames that were drawn."""

    dataset: str
    sequence: VideoSequence
    template: int
    search: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.sequence.name} frames {self.template}, {self.search}"


class _Crop(NamedTuple):
    """One of the two images of a pair."""

    #: (3, size, size) uint8.
    pixels: Tensor
    #: (4,) float32, as `Sample.box`.
    label: Tensor
    #: As of `Sample`.
    brightness: float


class PairDataset(Dataset[Sample]):
    """Training pairs from weighted data sets.

    What cannot be read is reported to the log, counted, and replaced by the next draw. Each process counts for itself:
    a worker of a data loader raises when its own share of failures is too high.
    """

    def __init__(
        self, datasets: Mapping[str, Sequences[Any]], weights: Mapping[str, float], config: Config, seed: int
    ) -> None:
        """Draws from opened data sets; see `training_pairs` for those of a configuration.

        Args:
            datasets: by name; at least one.
            weights: of each, positive.
            config: its data and model sections count.
            seed: at least 0.

        """
        self.datasets = dict(datasets)
        self.data: DataConfig = config.data
        self.model: ModelConfig = config.model
        self.seed = seed
        self.draws = self.failures = 0
        shares = np.array([weights[name] for name in self.datasets])
        self._shares = shares / shares.sum()
        folder = rendering(config).cutouts
        self._others = cutouts(folder) if self.data.paste and folder is not None else ()
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self.data.samples_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; to be called before a data loader's iteration starts."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the epoch.

        Raises:
            DataError: too large a share of what was drawn is broken, or nothing that is drawn can be used.

        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index}: expected 0 ... {len(self) - 1}")
        if get_worker_info() is not None and cv2.getNumThreads() > 1:
            cv2.setNumThreads(0)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        fruitless = 0
        while fruitless < _FRUITLESS:
            self.draws += 1
            try:
                sample = self._draw(rng)
            except _NothingToDrawError:
                raise
            except DataError as error:
                self._count_failure(error)
                continue
            if sample is not None:
                return sample
            fruitless += 1
        raise _NothingToDrawError(f"{_FRUITLESS} draws in {', '.join(self.datasets)} gave no crop that shows anything")

    def _count_failure(self, error: DataError) -> None:
        self.failures += 1
        log.warning("left out (%d of %d draws): %s", self.failures, self.draws, error)
        if self.failures > max(self.data.failures, self.data.failure_share * self.draws):
            raise DataError(
                f"{self.failures} of {self.draws} draws failed, more than {self.data.failures} and more than "
                f"{self.data.failure_share:.1%}; the last: {error}"
            ) from error

    def _draw(self, rng: np.random.Generator) -> Sample | None:
        """A sample, or None where a crop would show nothing of its frame."""
        choice = self._choose(rng)
        sequence = choice.sequence
        images = [sequence.frame(choice.template)]
        images.append(images[0] if choice.search == choice.template else sequence.frame(choice.search))
        boxes = [sequence.boxes[choice.template], sequence.boxes[choice.search]]
        others = self._others
        if rng.random() < self.data.grayscale:
            images = [without_color(image) for image in images]
            others = ()  # in colour they would be told from the target at once
        if rng.random() < self.data.flip:
            boxes = [mirror_box(box, image.shape[1]) for box, image in zip(boxes, images, strict=True)]
            images = [mirrored(image) for image in images]
        if self.data.stretch:
            factors = np.exp(self.data.stretch * rng.standard_normal(2))
            pairs = list(map(stretched, images, boxes, factors))
            images, boxes = [image for image, _ in pairs], [box for _, box in pairs]
        around = [boxes[0], jitter_box(boxes[1], self.data.jitter, rng)]
        if not can_be_cropped(np.stack(around)).all():
            raise DataError(f"{choice}: no crops of this size, of boxes {boxes[0].tolist()}, {boxes[1].tolist()}")
        template = self._cut(images[0], boxes[0], around[0], self.model.template, (), rng)
        search = self._cut(images[1], boxes[1], around[1], self.model.search, others, rng)
        if template is None or search is None:
            return None
        brightness = torch.tensor([template.brightness, search.brightness], dtype=torch.float32)
        return Sample(template.pixels, search.pixels, search.label, template.label, brightness, str(choice))

    def _choose(self, rng: np.random.Generator) -> _Choice:
        """Two frames. The data set is drawn once: however many of its sequences cannot be used, its share stays."""
        name = list(self.datasets)[rng.choice(len(self._shares), p=self._shares)]
        sequences = self.datasets[name]
        for _ in range(_FRUITLESS):
            sequence = sequences[int(rng.integers(len(sequences)))]
            visible = sequence.visible
            if sequences.still:
                return _Choice(name, sequence, 0, 0)
            if len(visible) >= self.data.min_frames and visible.sum() >= self.data.min_visible:
                return _Choice(name, sequence, *choose_frames(visible, self.data.max_gap, rng))
        raise _NothingToDrawError(
            f"{name}: {_FRUITLESS} draws gave no pair: expected sequences with {self.data.min_frames} frames, "
            f"{self.data.min_visible} of them visible"
        )

    def _cut(
        self,
        image: Image,
        box: Boxes,
        around: Boxes,
        crop: CropConfig,
        others: tuple[Cutout, ...],
        rng: np.random.Generator,
    ) -> _Crop | None:
        """A crop, augmented; None where it shows nothing of the image, or next to nothing."""
        region = crop_region(around, crop.factor)
        pixels = crop_image(image, region, crop.size)
        label = region.to_crop(box, crop.size)
        shown = region.shown(image.shape[1], image.shape[0], crop.size)
        if others and rng.random() < self.data.paste:
            pixels = with_others(pixels, label, shown, others, rng)
        brightness = rng.uniform(1 - self.data.brightness, 1 + self.data.brightness)
        changed = pixels
        if self.data.color:
            changed = recolored(changed, self.data.color, rng)
        if self.data.degrade and rng.random() < self.data.degrade:
            changed = degraded(changed, rng)
        if changed is not pixels:
            # What is outside of the frame stays black, as in tracking. The crop may be a view of the frame.
            pixels = pixels.copy()
            pixels[shown] = changed[shown]
        flips = bool(rng.random() < self.data.crop_flip)
        if not region.grid_holds_pixels(image.shape[1], image.shape[0], crop.size, mirrored=flips):
            return None
        if flips:
            pixels, label = mirrored(pixels), mirror_label(label)
        return _Crop(
            torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(label.astype(np.float32)), brightness
        )


def choose_frames(visible: NDArray[np.bool_], max_gap: int, rng: np.random.Generator) -> tuple[int, int]:
    """Template and search frame: the first uniform over the visible ones, the second over the visible ones after it.

    Where none follows within `max_gap`, both are drawn again with a larger gap.

    Args:
        visible: (N,) with at least two frames True.
        max_gap: largest difference of the two, at first.
        rng: gives two or more numbers.

    """
    places = np.flatnonzero(visible)
    templates = places[places < len(visible) - 1]
    while True:
        template = rng.choice(templates)
        after = places[(places > template) & (places <= template + max_gap)]
        if len(after):
            return int(template), int(rng.choice(after))
        max_gap += _GAP_STEP


def training_pairs(config: Config, seed: int) -> PairDataset:
    """The training pairs of a configuration.

    Args:
        config: `config.data.train` says from where.
        seed: of the stream of samples, at least 0.

    Raises:
        DataError: no data set is configured, or one cannot be opened; every missing path is named.

    """
    if not config.data.train:
        raise DataError("data.train: names no data set to train on")
    datasets = open_datasets(config, config.data.train)
    return PairDataset(datasets, {name: dataset.weight for name, dataset in config.data.train.items()}, config, seed)
