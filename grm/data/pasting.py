"""Copy-paste: cut-outs of other things put into a search region, beside its target and in front of it."""

import numpy as np
from numpy.typing import NDArray

from ..crop import Image
from .synthetic.cutout import Cutout
from .synthetic.looks import cutout_painter
from .synthetic.sprite import Motion, Sprite

# At most so many are pasted; together their boxes leave this share of what is seen of the target's box.
_MOST, _LEFT = 3, 0.5
# The ends of their sizes in the target's; how far their colours are mixed, as of `random_colors`.
_SIZES, _COLORS = (0.33, 1.5), 0.1


def with_others(
    image: Image,
    target: NDArray[np.float64],
    shown: tuple[slice, slice],
    cutouts: tuple[Cutout, ...],
    rng: np.random.Generator,
) -> Image:
    """Pastes one to three cut-outs into a search region.

    They are from a third to one and a half times as large as the target, anywhere in the frame, as they are or
    mirrored. One that would leave less than half of the target's box to be seen is left out.

    Args:
        image: (side, side, 3) uint8, the crop; it is not changed.
        target: (4,) its box in the crop: centre x, centre y, width, height, in sides.
        shown: rows and columns that show the frame: the rest is padding, which stays as it is.
        cutouts: to choose from.
        rng: gives what is pasted, and where.

    """
    image, side = image.copy(), image.shape[0]
    canvas, corner = image[shown], np.array([shown[1].start, shown[0].start])
    extent = np.array(canvas.shape[1::-1])
    center, half = side * target[:2] - corner, side * target[2:] / 2
    seen = np.zeros(canvas.shape[:2], dtype=bool)
    seen[_within(center, half, extent)] = True
    least = _LEFT * seen.sum()
    for _ in range(int(rng.integers(1, _MOST + 1))):
        cutout = cutouts[rng.integers(len(cutouts))]
        size = np.sqrt(half.prod()) * np.exp(rng.uniform(*np.log(_SIZES)))
        own = size * np.exp(0.5 * np.log(cutout.aspect) * np.array([1, -1]))
        place, mirrored = rng.uniform((0, 0), extent), rng.choice([-1, 1])
        left = seen.copy()
        left[_within(place, own, extent)] = False
        if left.sum() < least:
            continue
        seen = left
        still = Motion.still(place, own * (mirrored, 1))
        Sprite(cutout, still, cutout_painter(rng, cutout, _COLORS)).draw(canvas, 0)
    return image


def _within(center: NDArray[np.float64], half: NDArray[np.float64], extent: NDArray[np.int64]) -> tuple[slice, slice]:
    """Rows and columns that a box touches, of a canvas `extent` wide and high."""
    low = np.clip(np.floor(center - half), 0, extent).astype(int)
    high = np.clip(np.ceil(center + half), 0, extent).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])
