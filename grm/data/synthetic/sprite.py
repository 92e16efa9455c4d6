"""One moving object of a synthetic video: where it is in every frame, what it covers, and how it is drawn.

Points of an object are in its own units: the outline reaches from -1 to 1. They go to the frame by a bend (two sine
waves, one after the other, so that the inverse is exact) and by a turn, a scale and a shift.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ...boxes import Boxes
from ...crop import Image
from .cutout import Cutout
from .shapes import REACH, Outline

Array = NDArray[np.float64]

# Edges are drawn with so many samples a pixel in x and in y.
_SAMPLES = 2


class Motion(NamedTuple):
    """An object's place in each of N frames."""

    #: (N, 2) in pixels of the frame.
    center: Array
    #: (N,) in radians.
    angle: Array
    #: (N, 2) half its width and half its height, in pixels, before it is turned.
    half: Array
    #: (N, 2) phases of the two waves that bend it; (2,) their sizes and (2,) their angular frequencies.
    phase: Array
    bend: Array
    waves: Array

    @classmethod
    def still(cls, center: Array, half: Array) -> "Motion":
        """Of one frame, neither turned nor bent: (2,) its centre and (2,) half its width and height, in pixels."""
        return cls(center[None], np.zeros(1), half[None], np.zeros((1, 2)), np.zeros(2), np.ones(2))

    def reach(self) -> Array:
        """(N,) no part of the object is further from its centre than this, in pixels."""
        return np.hypot(*(self.half.T * (1 + self.bend[:, None])))


class Sprite:
    """A shape with a texture, moving."""

    def __init__(self, shape: Outline | Cutout, motion: Motion, paint: Callable[[], Image]) -> None:
        """Combines what it covers with where it goes.

        Args:
            shape: what it covers.
            motion: over N frames.
            paint: makes its texture once it is first drawn: square, what is seen of it from -REACH to REACH.

        """
        self.shape, self.motion, self._paint = shape, motion, paint
        turn = np.empty((len(motion.angle), 2, 2))
        turn[:, 0, 0] = turn[:, 1, 1] = np.cos(motion.angle)
        turn[:, 1, 0] = np.sin(motion.angle)
        turn[:, 0, 1] = -turn[:, 1, 0]
        self._forward = turn * motion.half[:, None, :]
        self._inverse = turn.transpose(0, 2, 1) / motion.half[:, :, None]

    @cached_property
    def texture(self) -> Image:
        """Its texture."""
        return self._paint()

    @property
    def shares(self) -> Array:
        """(Q,) the shares of its area that the points of `inside` stand for."""
        return self.shape.shares

    def placed(self, center: Array) -> "Sprite":
        """The same object with another path of its centre, (N, 2) in pixels."""
        return Sprite(self.shape, self.motion._replace(center=center), self._paint)

    def reach(self) -> Array:
        """(N,) no part of it is further from its centre than this, in pixels."""
        return self.motion.reach()

    def outline(self, frames: NDArray[np.int64]) -> tuple[Array, Array]:
        """Points of the outline in n frames: x and y, (n, P) each, in pixels."""
        return self._to_frame(self.shape.corners, frames)

    def inside(self, frames: NDArray[np.int64]) -> tuple[Array, Array]:
        """Points all over it, those of `Shape.inside`, in n frames: x and y, (n, Q) each, in pixels."""
        return self._to_frame(self.shape.inside, frames)

    def boxes(self, frames: NDArray[np.int64]) -> Boxes:
        """(n, 4) the tight boxes around the outline in some frames, wherever it is."""
        x, y = self.outline(frames)
        left, top = x.min(axis=1), y.min(axis=1)
        return np.stack([left, top, x.max(axis=1) - left, y.max(axis=1) - top], axis=-1)

    def covers(self, x: Array, y: Array, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, P) which points, x and y (n, P) in pixels, lie within the outline in n frames."""
        return self.shape.holds(*self._to_object(x, y, frames))

    def draw(self, canvas: Image, frame: int) -> None:
        """Draws it as it is in one frame. What lies outside of the canvas is left out."""
        height, width = canvas.shape[:2]
        x, y = (values[0] for values in self.outline(np.array([frame])))
        x0, x1 = max(math.floor(x.min()) - 1, 0), min(math.ceil(x.max()) + 1, width)
        y0, y1 = max(math.floor(y.min()) - 1, 0), min(math.ceil(y.max()) + 1, height)
        if x0 >= x1 or y0 >= y1:
            return
        target = canvas[y0:y1, x0:x1]
        x_map, y_map = self._texture_places(x0, y0, x1, y1, frame)
        if isinstance(self.shape, Cutout):
            opacity = self.shape.opacity(x_map, y_map)
        else:
            opacity = _coverage(x - x0, y - y0, x1 - x0, y1 - y0)
        seen = cv2.remap(self.texture, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        canvas[y0:y1, x0:x1] = cv2.blendLinear(seen, target, opacity, 1 - opacity)

    def _to_frame(self, points: Array, frames: NDArray[np.int64]) -> tuple[Array, Array]:
        """x and y (n, P), in n frames, of points (2, P) in the object's units."""
        (a, b), (ka, kb) = self.motion.bend, self.motion.waves
        phase = self.motion.phase[frames][..., None]
        y = points[1] + b * np.sin(kb * points[0] + phase[:, 1])
        x = points[0] + a * np.sin(ka * y + phase[:, 0])
        forward, center = self._forward[frames][..., None], self.motion.center[frames][..., None]
        return (
            forward[:, 0, 0] * x + forward[:, 0, 1] * y + center[:, 0],
            forward[:, 1, 0] * x + forward[:, 1, 1] * y + center[:, 1],
        )

    def _to_object(self, x: Array, y: Array, frames: NDArray[np.int64]) -> tuple[Array, Array]:
        """The inverse of `_to_frame`, for points of each frame."""
        (a, b), (ka, kb) = self.motion.bend, self.motion.waves
        inverse, phase = self._inverse[frames][..., None], self.motion.phase[frames][..., None]
        x, y = x - self.motion.center[frames, :1], y - self.motion.center[frames, 1:]
        x, y = inverse[:, 0, 0] * x + inverse[:, 0, 1] * y, inverse[:, 1, 0] * x + inverse[:, 1, 1] * y
        x -= a * np.sin(ka * y + phase[:, 0])
        return x, y - b * np.sin(kb * x + phase[:, 1])

    def _texture_places(
        self, x0: int, y0: int, x1: int, y1: int, frame: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where in the texture each pixel of a part of the frame is found: (rows, columns) x and y."""
        (center_x, center_y), inverse = self.motion.center[frame], self._inverse[frame].astype(np.float32)
        (a, b), (ka, kb), phase = self.motion.bend, self.motion.waves, self.motion.phase[frame]
        column = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - center_x)
        row = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - center_y))[:, None]
        x = inverse[0, 0] * column + inverse[0, 1] * row
        y = inverse[1, 0] * column + inverse[1, 1] * row
        x -= np.float32(a) * np.sin(np.float32(ka) * y + np.float32(phase[0]))
        y -= np.float32(b) * np.sin(np.float32(kb) * x + np.float32(phase[1]))
        scale = np.float32(self.texture.shape[0] / (2 * REACH))
        middle = np.float32(self.texture.shape[0] / 2 - 0.5)
        return x * scale + middle, y * scale + middle


def _coverage(x: Array, y: Array, width: int, height: int) -> NDArray[np.float32]:
    """(height, width) share of each pixel, from 0 to 1, that lies within a polygon with corners x, y (P,)."""
    samples = np.zeros((height * _SAMPLES, width * _SAMPLES), dtype=np.uint8)
    # OpenCV counts from the middle of a sample, in 16ths.
    points = np.round((np.stack([x, y], axis=-1) * _SAMPLES - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(samples, [points], 255, cv2.LINE_8, 4)
    return cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)
