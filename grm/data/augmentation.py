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


def stretched(image: Image, box: Boxes, factor: float) -> tuple[Image, Boxes]:
    """An image and its box (4,), about `factor` times as wide over high, with the same area."""
    height, width = image.shape[:2]
    size = (max(1, round(width * math.sqrt(factor))), max(1, round(height / math.sqrt(factor))))
    scale = np.array(size) / (width, height)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), box * np.tile(scale, 2)


def random_colors(rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """(3, 4) a random mixing of colours, and what is added to them, about the identity."""
    matrix = np.eye(3, 4)
    matrix[:, :3] += strength * rng.standard_normal((3, 3))
    # Grey stays about as light as it was, around a middle grey.
    matrix[:, :3] *= np.exp(strength * rng.standard_normal()) / matrix[:, :3].sum(axis=1, keepdims=True).clip(0.5)
    matrix[:, 3] = 128 * (1 - matrix[:, :3].sum(axis=1)) + 64 * strength * rng.standard_normal(3)
    return matrix


def recolored(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """An image in the colours of `random_colors`."""
    return cv2.transform(image, random_colors(rng, strength))


def degraded(image: Image, rng: np.random.Generator) -> Image:
    """An image with less detail: blurred along a line or all over, scaled down and up again, or compressed."""
    height, width = image.shape[:2]
    kind, strength = int(rng.integers(4)), rng.random()
    if kind == 0:
        return cv2.filter2D(image, -1, line_kernel(2 + 10 * strength, rng.uniform(0, np.pi)))
    if kind == 1:
        return cv2.GaussianBlur(image, (0, 0), 0.5 + 1.5 * strength)
    if kind == 2:
        small = cv2.resize(image, None, fx=1 - 0.75 * strength, fy=1 - 0.75 * strength, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    _, compressed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(70 - 60 * strength)])
    return cv2.imdecode(compressed, cv2.IMREAD_COLOR)


def line_kernel(length: float, direction: float) -> NDArray[np.float32]:
    """A kernel (side, side) that averages along a line: so many pixels, at an angle in radians."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), dtype=np.float32)
    reach = length / 2 * np.array([np.cos(direction), np.sin(direction)])
    middle = side // 2
    ends = [tuple(round(n) for n in middle + sign * reach) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0)
    return kernel / kernel.sum()
