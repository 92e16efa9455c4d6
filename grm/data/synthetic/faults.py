"""What goes wrong on the way of a synthetic video: the target leaves, frames are lost, black, or broken by compression.

All of it is drawn from a generator of its own: the same seed with other faults is the same video.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ...config import SyntheticConfig
from ...crop import Image
from .motion import Array

# Frames in which the target crosses the edge.
_CROSSING = 8
# So many of its largest reaches beyond the edge lies its centre while it is away.
_BEYOND = 1.2


class Faults:
    """The faults of one sequence.

    Args:
        seed: of the sequence.
        config: how many, and how bad.

    """

    def __init__(self, seed: int, config: SyntheticConfig) -> None:
        self._rng = rng = np.random.default_rng((seed, 1))
        self._config = config
        self._absences = [
            (rng.uniform(*config.absence_frames), rng.random(), int(rng.integers(4)))
            for _ in range(int(rng.integers(config.absences[0], config.absences[1] + 1)))
        ]
        lost = rng.random(config.frames) < config.dropped
        lost[0] = False  # the frame that shows the target
        #: (N,) numbers of the frames that are left, in the video before any was lost.
        self.kept: NDArray[np.int64] = np.flatnonzero(~lost)
        #: (frames,) which of them are black, counted as before.
        self.black = np.zeros(config.frames, dtype=bool)
        for _ in range(int(rng.integers(config.blackouts[0], config.blackouts[1] + 1))):
            start, length = int(rng.integers(1, config.frames)), round(rng.uniform(*config.blackout_frames))
            self.black[start : start + length] = True
        self._quality = rng.uniform(*config.quality, config.frames) if config.quality is not None else None

    def leaving(self, center: Array, reach: float) -> Array:
        """(frames, 2) the path of a centre, in pixels, with a way out over an edge and back for each absence.

        Args:
            center: (frames, 2) the path without them.
            reach: no part of the object is further from its centre, in pixels.

        """
        center, frames = center.copy(), np.arange(len(center))
        for lasts, place, side in self._absences:
            half = lasts / 2 + _CROSSING
            middle = half + place * max(len(center) - 2 * half, 0)
            gone = np.clip((half - np.abs(frames - middle)) / _CROSSING, 0, 1)
            gone = gone**2 * (3 - 2 * gone)
            axis, far = side % 2, side // 2
            edge = (self._config.width, self._config.height)[axis]
            outside = edge + _BEYOND * reach if far else -_BEYOND * reach
            center[:, axis] += gone * (outside - center[:, axis])
        return center

    def apply(self, image: Image, frame: int) -> Image:
        """The image (height, width, 3) as it comes out; frames are counted as before any was lost."""
        if self.black[frame]:
            return np.zeros_like(image)
        if self._quality is None:
            return image
        quality = [cv2.IMWRITE_JPEG_QUALITY, round(self._quality[frame])]
        coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        return cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
