"""What happens to images and boxes before training, by the published rules."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..config import JitterConfig
from ..crop import Image


def without_color(image: Image) -> Image:
    """The grey image of an RGB one, still with three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def mirrored(image: Image) -> Image:
    """Left and right exchanged."""
    return cv2.flip(image, 1)


def mirror_box(box: Boxes, width: int) -> Boxes:
    """The box (4,) x, y, width, height of a mirrored frame, which is `width` pixels wide.

    x becomes width - 1 - x - w, as published: one pixel left of where the target now is, for continuous boxes.
    """
    x, y, w, h = box
    return np.array([width - 1 - x - w, y, w, h])


def mirror_label(label: NDArray[np.float64]) -> NDArray[np.float64]:
    """The label (4,) centre x, centre y, width, height, in sides, of a mirrored crop.

    The left edge x becomes 1 - x - w, as published: one pixel of the crop right of where the target now is, since
    labels count centres in indices of pixels.
    """
    return np.array([1 - label[0], *label[1:]])


def jitter_box(box: Boxes, jitter: JitterConfig, rng: np.random.Generator) -> Boxes:
    """A box moved and scaled at random: around it the search region is cut.

    Args:
        box: (4,) x, y, width, height.
        jitter: how far.
        rng: gives two normal and two uniform numbers.

    """
    size = box[2:] * np.exp(jitter.scale * rng.standard_normal(2))
    center = box[:2] + box[2:] / 2 + jitter.center * math.sqrt(size.prod()) * rng.uniform(-1, 1, 2)
    return np.concatenate([center - size / 2, size])


def brightened(image: Image, factor: float) -> Image:
    """An image times a number, rounded and limited to 255."""
    return cv2.convertScaleAbs(image, alpha=factor)
