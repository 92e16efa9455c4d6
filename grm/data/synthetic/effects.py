"""What happens to a synthetic frame as a whole: shadow, light, blur and noise."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ...config import SyntheticConfig
from ...crop import Image
from ..augmentation import line_kernel
from .motion import wiggle

# Narrower blurs than this, in pixels, cannot be seen.
_NARROWEST = 1.5
# Noise is cut from a tile that is larger than a frame by so many pixels; its deviation there is this.
_NOISE_SLACK, _NOISE_DEVIATION = 128, 40


class Effects:
    """The effects of one sequence."""

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig) -> None:
        frames = config.frames
        deviation = np.array([config.light, config.cast, config.cast, config.cast])
        light, *cast = wiggle(rng, frames, 4, deviation).T
        #: (N, 3) what each colour is multiplied by.
        self._gain = np.exp(light[:, None] + np.stack(cast, axis=-1))
        grid = np.clip(2 * rng.random((5, 5), dtype=np.float32) - 0.5, 0, 1)
        smooth = cv2.resize(grid, (40, 30), interpolation=cv2.INTER_CUBIC)
        shade = 255 * (1 - rng.uniform(*config.shadow) * np.clip(3 * smooth - 1, 0, 1))
        self._shadow = cv2.merge([cv2.resize(shade.astype(np.uint8), (config.width, config.height))] * 3)
        width = rng.uniform(*config.blur_width) * (rng.random() < config.blur)
        burst, direction = wiggle(rng, frames, 2, np.array([2.0, 2.0])).T
        #: (N,) width of the blur in pixels, and its direction in radians; out of focus it has none.
        self._blur = width * np.clip(burst, 0, 1)
        #: Of the lens, in pixels: objects and background are equally sharp.
        self._softness = rng.uniform(*config.softness)
        self._direction = direction if rng.random() < 0.5 else None
        self._noise = rng.uniform(*config.noise)
        self._noise_place = rng.integers(0, _NOISE_SLACK, (frames, 2))

    def apply(self, image: Image, frame: int) -> Image:
        """The image (height, width, 3) as it is seen in one frame."""
        image = cv2.multiply(image, self._shadow, scale=1 / 255)
        image = cv2.transform(image, np.diag(self._gain[frame]))
        width, softness = self._blur[frame], self._softness
        if width > _NARROWEST and self._direction is not None:
            image = cv2.filter2D(image, -1, line_kernel(width, self._direction[frame]))
        elif max(width, softness) > _NARROWEST:
            image = cv2.GaussianBlur(image, (0, 0), max(width, softness) / 4)
        y, x = self._noise_place[frame]
        height, columns = image.shape[:2]
        noise = _noise_tile(height, columns)[y : y + height, x : x + columns]
        share = self._noise / _NOISE_DEVIATION
        return cv2.addWeighted(image, 1, noise, share, -128 * share)


@lru_cache(maxsize=2)
def _noise_tile(height: int, width: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    tile = rng.normal(128, _NOISE_DEVIATION, (height + _NOISE_SLACK, width + _NOISE_SLACK, 3))
    return np.clip(np.round(tile), 0, 255).astype(np.uint8)
