"""Builds of articulated objects: upright with arms and legs, on four legs, or with limbs all around.

A part at angle 0 points down, along y; a positive turn takes it to the left.
"""

import numpy as np

from ...crop import Image
from .articulated import BODY, HEAD, LIMB, Articulated, Figure, Part
from .shapes import cover_outline, random_outline
from .sprite import Motion

# Frames of a swing: from a quick step to a slow wave.
_PERIOD = (10, 40)
# Where along a segment, in half its lengths, the next one hangs: they overlap, so that a bend leaves no gap.
_KNEE = 0.85


def random_figure(rng: np.random.Generator) -> Figure:
    """A build of any kind."""
    parts = _BUILDS[rng.integers(len(_BUILDS))](rng)
    still = Figure(tuple(part._replace(swing=0.0) for part in parts), 1.0, 1.0)
    rest = Motion.still(np.zeros(2), np.ones(2))
    x, y, width, height = Articulated(still, rest, [_unpainted] * len(parts)).boxes(np.zeros(1, dtype=int))[0]
    scale = 2 / np.sqrt(width * height)
    # The body hangs on the whole, whose units stay; all else is in units of what it hangs on.
    parts[0] = parts[0]._replace(joint=scale * (parts[0].joint - (x + width / 2, y + height / 2)))
    parts = [part._replace(half=scale * part.half) for part in parts]
    return Figure(tuple(parts), rng.uniform(*_PERIOD), width / height)


def similar_figure(rng: np.random.Generator, figure: Figure) -> Figure:
    """The build of another of the same kind: parts of slightly different sizes, and out of step."""
    later = rng.uniform(0, 2 * np.pi)
    parts = (
        part._replace(half=part.half * np.exp(0.06 * rng.standard_normal(2)), phase=part.phase + later)
        for part in figure.parts
    )
    return figure._replace(parts=tuple(parts), period=figure.period * np.exp(0.2 * rng.standard_normal()))


class _Limbs:
    """Limbs of one kind on a body, the first of some parts: arms, legs, or a tail."""

    def __init__(self, rng: np.random.Generator, length: tuple[float, float], width: tuple[float, float]) -> None:
        self._rng, self._radii = rng, cover_outline(rng)
        self._segments = int(rng.integers(1, 3))
        self._length = rng.uniform(*length)
        self._width = self._length * rng.uniform(*width)
        self._turn, self._swing, self._bend = rng.uniform((-0.6, 0, 0), (0.6, 0.7, 0.6))

    def grow(self, parts: list[Part], x: float, y: float, angle: float, phase: float, behind: bool = False) -> None:
        """Adds one to the parts, at (x, y) of the body, in half its widths and lengths."""
        half = np.array([self._width, self._length / self._segments]) / 2
        parts.append(Part(0, np.array([x, y]), angle, self._swing, phase, half, self._radii, LIMB, behind))
        for _ in range(1, self._segments):
            half, phase = half * (0.85, 1), phase + self._rng.uniform(0.5, 1.5)
            knee = np.array([0, _KNEE])
            parts.append(Part(len(parts) - 1, knee, self._turn, self._bend, phase, half, self._radii, LIMB, behind))


def _body(rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]) -> Part:
    half = rng.uniform(low, high)
    radii = random_outline(rng) if rng.random() < 0.3 else cover_outline(rng)
    return Part(None, np.zeros(2), 0.0, 0.0, 0.0, half, radii, BODY)


def _head(rng: np.random.Generator, x: float, y: float, angle: float) -> Part:
    half = rng.uniform(0.14, 0.3) * np.array([1, rng.uniform(1, 1.3)])
    swing, phase = rng.uniform(0, 0.3), rng.uniform(0, 2 * np.pi)
    return Part(0, np.array([x, y]), angle, swing, phase, half, cover_outline(rng), HEAD)


def _upright(rng: np.random.Generator) -> list[Part]:
    parts = [_body(rng, (0.2, 0.45), (0.45, 0.65)), _head(rng, 0, -0.95, np.pi)]
    legs, arms = _Limbs(rng, (0.6, 1.2), (0.15, 0.35)), _Limbs(rng, (0.5, 1.0), (0.12, 0.3))
    apart, raised = rng.uniform(0, 0.3), rng.uniform(0, 1.5) ** 2
    for side, phase in ((1, 0.0), (-1, np.pi)):
        legs.grow(parts, 0.5 * side, 0.85, -apart * side, phase)
        arms.grow(parts, 0.85 * side, -0.75, -raised * side, phase + np.pi, behind=side < 0)
    return parts


def _level(rng: np.random.Generator) -> list[Part]:
    front = rng.choice([-1.0, 1.0])
    parts = [_body(rng, (0.5, 0.22), (0.9, 0.4)), _head(rng, 0.95 * front, -0.5, -front * rng.uniform(1.4, 2.8))]
    legs, tail = _Limbs(rng, (0.4, 1.0), (0.15, 0.35)), _Limbs(rng, (0.3, 0.9), (0.1, 0.25))
    for end in (-0.75, 0.75):
        first = rng.uniform(0, 2 * np.pi)
        legs.grow(parts, end, 0.75, 0.0, first)
        legs.grow(parts, end + 0.1, 0.75, 0.0, first + np.pi, behind=True)
    tail.grow(parts, -0.95 * front, -0.4, front * rng.uniform(0.4, 2.6), 0.0)
    return parts


def _around(rng: np.random.Generator) -> list[Part]:
    parts = [_body(rng, (0.3, 0.3), (0.6, 0.6))]
    limbs, count, first = _Limbs(rng, (0.4, 1.1), (0.12, 0.4)), int(rng.integers(2, 8)), rng.uniform(0, 2 * np.pi)
    for angle in first + 2 * np.pi * np.arange(count) / count:
        phase = rng.uniform(0, 2 * np.pi)
        limbs.grow(parts, 0.8 * np.cos(angle), 0.8 * np.sin(angle), angle - np.pi / 2, phase, rng.random() < 0.5)
    return parts


_BUILDS = (_upright, _upright, _level, _around)


def _unpainted() -> Image:
    raise AssertionError("a pose at rest is measured, not drawn")
