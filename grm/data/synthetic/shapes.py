"""Outlines of synthetic objects: star-shaped, so that a function of the angle says all.

Points of an object are in its own units: its outline lies between -1 and 1, and touches one of these in x or in y.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Number of corners of every outline.
CORNERS = 48
ANGLES: Array = np.linspace(-np.pi, np.pi, CORNERS, endpoint=False)
#: An object's texture shows it from -REACH to REACH in its own units: outlines bend and lean over the edges.
REACH = 1.25
# Points inside of an outline that stand for its area: at these shares of the radius, in every 3rd direction.
_RINGS = np.sqrt((np.arange(4) + 0.5) / 4)
_EVERY = 3


class Shape(ABC):
    """What an object covers."""

    #: (2, P) x and y of points of its outline, the furthest each way among them.
    corners: Array
    #: (2, Q) points all over it, and (Q,) the shares of its area that they stand for.
    inside: Array
    shares: Array

    @abstractmethod
    def holds(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Which points lie within it; arrays of one shape."""


class Outline(Shape):
    """A star-shaped outline, by its radii (CORNERS,) at `ANGLES`."""

    def __init__(self, radii: Array) -> None:
        self.radii = radii
        self.corners = radii * np.stack([np.cos(ANGLES), np.sin(ANGLES)])
        self.inside = (_RINGS[:, None] * self.corners[:, None, ::_EVERY]).reshape(2, -1)
        # Sectors, cut into rings of equal area.
        sectors = np.tile(radii[::_EVERY] ** 2, len(_RINGS))
        self.shares = sectors / sectors.sum()

    def holds(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Which points lie within the outline; arrays of one shape."""
        angles, radii = np.append(ANGLES, np.pi), np.append(self.radii, self.radii[0])
        return np.hypot(x, y) < np.interp(np.arctan2(y, x), angles, radii)


def random_outline(rng: np.random.Generator) -> Array:
    """(CORNERS,) radii at `ANGLES`; the outline fits its box, see `fitted`."""
    return fitted(_KINDS[rng.integers(len(_KINDS))](rng))


def cover_outline(rng: np.random.Generator) -> Array:
    """An outline that covers well: an ellipse, a box, or between them."""
    return fitted(_rounded(rng))


def similar_outline(rng: np.random.Generator, radii: Array) -> Array:
    """The outline of another of the same kind: slightly different everywhere."""
    return fitted(radii * (1 + _waves(rng, 4, 0.04)))


def fitted(radii: Array) -> Array:
    """Radii scaled so that the outline fits its box: the further of its extents in x and y is 1."""
    return radii / max(np.abs(radii * np.cos(ANGLES)).max(), np.abs(radii * np.sin(ANGLES)).max())


def _waves(rng: np.random.Generator, count: int, size: float) -> Array:
    """(CORNERS,) `count` lowest harmonics, falling."""
    orders = np.arange(1, count + 1)
    sizes = size * rng.standard_normal(count) / np.sqrt(orders)
    return np.cos(np.outer(ANGLES, orders) + rng.uniform(0, 2 * np.pi, count)) @ sizes


def _rounded(rng: np.random.Generator) -> Array:
    """A superellipse: from a rhombus by the ellipse to the rectangle."""
    power = rng.choice([1.3, 2.0, 2.0, 4.0, 10.0])
    return (np.abs(np.cos(ANGLES)) ** power + np.abs(np.sin(ANGLES)) ** power) ** (-1 / power)


def _blob(rng: np.random.Generator) -> Array:
    return np.exp(np.clip(_waves(rng, 5, 0.25), -0.7, 0.7))


def _star(rng: np.random.Generator) -> Array:
    """A star, a gear or a flower."""
    points, depth = int(rng.integers(3, 9)), rng.uniform(0.1, 0.35)
    wave = np.cos(points * ANGLES + rng.uniform(0, 2 * np.pi))
    return 1 + depth * (np.tanh(4 * wave) if rng.random() < 0.3 else wave)


def _polygon(rng: np.random.Generator) -> Array:
    sides = int(rng.integers(3, 7))
    angle = (ANGLES + rng.uniform(0, 2 * np.pi)) % (2 * np.pi / sides) - np.pi / sides
    return np.cos(np.pi / sides) / np.cos(angle)


def _figure(rng: np.random.Generator) -> Array:
    """A head on a body: narrow above, broad below."""
    neck = rng.uniform(0.3, 0.6)
    return 1 - neck * np.exp(-((np.abs(ANGLES + np.pi / 2) - rng.uniform(0.5, 0.9)) ** 2) / 0.08) + _waves(rng, 3, 0.05)


_KINDS = (_rounded, _rounded, _blob, _blob, _star, _polygon, _figure)
