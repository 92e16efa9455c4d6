"""Objects with limbs: parts that hang on each other by joints and swing, with one tight box around all of them.

A part lies along its own y axis, away from its joint. Lengths are in the figure's units: the box around its pose at
rest has its middle at the origin and an area of 4, as that of an outline from -1 to 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...boxes import Boxes
from ...crop import Image
from .motion import Array
from .shapes import Outline
from .sprite import Motion, Sprite

# What a part looks like.
BODY, LIMB, HEAD = range(3)


class Part(NamedTuple):
    """One part of a figure."""

    #: Number of the part that it hangs on, one before it. The first hangs on the whole, from -1 to 1 in x and in y.
    parent: int | None
    #: (2,) place of the joint on the parent, in half widths and half lengths of that.
    joint: Array
    #: Turn against the parent at rest; largest swing to either side; phase of the swing. In radians.
    angle: float
    swing: float
    phase: float
    #: (2,) half its width and half its length; its outline, by the radii of `shapes.Outline`.
    half: Array
    radii: Array
    #: BODY, LIMB or HEAD; whether it is drawn before the body.
    look: int
    behind: bool = False


class Figure(NamedTuple):
    """The build of an articulated object."""

    parts: tuple[Part, ...]
    #: Frames of one swing to and fro.
    period: float
    #: Width over height at rest.
    aspect: float


class Articulated:
    """A figure with its textures, moving. What can be asked of it is what can be asked of a `Sprite`."""

    def __init__(self, figure: Figure, motion: Motion, paints: Sequence[Callable[[], Image]]) -> None:
        """Combines what it is with where it goes.

        Args:
            figure: its build.
            motion: of the whole over N frames. The figure keeps its aspect: of the size, only the area counts.
            paints: for each part, what makes its texture; see `Sprite`.

        """
        self.motion, self._figure, self._paints = motion, figure, paints
        motions = _motions(figure, motion)
        outlines = [Outline(part.radii) for part in figure.parts]
        self._sprites = [Sprite(*args) for args in zip(outlines, motions, paints, strict=True)]
        areas = np.array([part.half.prod() * (part.radii**2).sum() for part in figure.parts])
        of_parts = zip(areas / areas.sum(), outlines, strict=True)
        #: (Q,) the shares of its area that the points of `inside` stand for; where parts overlap, each counts.
        self.shares: Array = np.concatenate([area * outline.shares for area, outline in of_parts])

    def placed(self, center: Array) -> "Articulated":
        """The same object with another path of its centre, (N, 2) in pixels."""
        return Articulated(self._figure, self.motion._replace(center=center), self._paints)

    def reach(self) -> Array:
        """(N,) no part of it is further from its centre than this, in pixels."""
        distances = [np.hypot(*(sprite.motion.center - self.motion.center).T) for sprite in self._sprites]
        return np.max([far + sprite.reach() for far, sprite in zip(distances, self._sprites, strict=True)], axis=0)

    def inside(self, frames: NDArray[np.int64]) -> tuple[Array, Array]:
        """Points all over it in n frames: x and y, (n, Q) each, in pixels."""
        x, y = zip(*(sprite.inside(frames) for sprite in self._sprites), strict=True)
        return np.concatenate(x, axis=1), np.concatenate(y, axis=1)

    def boxes(self, frames: NDArray[np.int64]) -> Boxes:
        """(n, 4) the tight boxes around all parts in some frames, wherever they are."""
        boxes = np.stack([sprite.boxes(frames) for sprite in self._sprites])
        low, high = boxes[..., :2].min(axis=0), (boxes[..., :2] + boxes[..., 2:]).max(axis=0)
        return np.concatenate([low, high - low], axis=-1)

    def covers(self, x: Array, y: Array, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, P) which points, x and y (n, P) in pixels, lie within any part in n frames."""
        return np.any([sprite.covers(x, y, frames) for sprite in self._sprites], axis=0)

    def draw(self, canvas: Image, frame: int) -> None:
        """Draws it as it is in one frame. What lies outside of the canvas is left out."""
        for behind in (True, False):
            for part, sprite in zip(self._figure.parts, self._sprites, strict=True):
                if part.behind == behind:
                    sprite.draw(canvas, frame)


def _motions(figure: Figure, whole: Motion) -> list[Motion]:
    """The motion of each part. All bend as the whole does."""
    scale = np.sqrt(whole.half.prod(axis=1))
    time = 2 * np.pi * np.arange(len(scale)) / figure.period
    motions: list[Motion] = []
    for part in figure.parts:
        parent = whole._replace(half=np.stack([scale, scale], axis=-1)) if part.parent is None else motions[part.parent]
        angle = parent.angle + part.angle + part.swing * np.sin(time + part.phase)
        joint = parent.center + _turned(parent.half * part.joint, parent.angle)
        center = joint + _turned(scale[:, None] * (0, part.half[1]), angle)
        motions.append(whole._replace(center=center, angle=angle, half=scale[:, None] * part.half))
    return motions


def _turned(vectors: Array, angle: Array) -> Array:
    """Vectors (N, 2), each turned by its angle (N,)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * vectors[:, 0] - sin * vectors[:, 1], sin * vectors[:, 0] + cos * vectors[:, 1]], axis=-1)
