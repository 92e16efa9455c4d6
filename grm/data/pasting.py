"""Copy-paste: cut-outs of other things put into a search region, beside its target and in front of it."""

import numpy as np
from numpy.typing import NDArray

from ..crop import Image
from .synthetic.cutout import Cutout
from .synthetic.looks import cutout_painter
from .synthetic.sprite import Motion, Sprite

# At most so many are pasted; nothing that would hide more than this share of the target's box.
_MOST, _HIDDEN = 3, 0.5
# The ends of their sizes in the target's; how far their colours are mixed, as of `random_colors`.
_SIZES, _COLORS = (0.33, 1.5), 0.1


def with_others(
    image: Image,
    target: NDArray[np.float64],
    frame: NDArray[np.float64],
    cutouts: tuple[Cutout, ...],
    rng: np.random.Generator,
) -> Image:
    """Pastes one to three cut-outs into a search region.

    They are from a third to one and a half times as large as the target, anywhere in the frame, as they are or
    mirrored. What would hide more than half of the target's box is left out, so that the label stays true.

    Args:
        image: (side, side, 3) uint8, the crop; it is not changed.
        target: (4,) its box in the crop: centre x, centre y, width, height, in sides.
        frame: (4,) likewise that of the whole frame: beyond it is padding, which stays as it is.
        cutouts: to choose from.
        rng: gives what is pasted, and where.

    """
    image, side = image.copy(), image.shape[0]
    low, high = (np.clip(np.round(side * (frame[:2] + sign * frame[2:] / 2)), 0, side).astype(int) for sign in (-1, 1))
    canvas = image[low[1] : high[1], low[0] : high[0]]
    center, half = side * target[:2] - low, side * target[2:] / 2
    for _ in range(int(rng.integers(1, _MOST + 1))):
        cutout = cutouts[rng.integers(len(cutouts))]
        size = np.sqrt(half.prod()) * np.exp(rng.uniform(*np.log(_SIZES)))
        own = size * np.exp(0.5 * np.log(cutout.aspect) * np.array([1, -1]))
        place, mirrored = rng.uniform((0, 0), high - low), rng.choice([-1, 1])
        common = np.minimum(center + half, place + own) - np.maximum(center - half, place - own)
        if common.min() > 0 and common.prod() > _HIDDEN * (4 * half.prod()):
            continue
        size = own * (mirrored, 1)
        still = Motion(place[None], np.zeros(1), size[None], np.zeros((1, 2)), np.zeros(2), np.ones(2))
        Sprite(cutout, still, cutout_painter(rng, cutout, _COLORS)).draw(canvas, 0)
    return image
