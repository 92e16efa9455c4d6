"""Smooth random curves over the frames of a sequence: uniform cubic B-splines through random numbers.

A curve is its control values times a fixed matrix, so that any frame of it is known without the frames before.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Frames from one control value to the next: how long a motion keeps its direction.
INTERVAL = 8
# How much of one step's direction the next one keeps.
_INERTIA = 0.5


@lru_cache(maxsize=8)
def spline_matrix(frames: int) -> Array:
    """(frames, controls): the weight of each control value in each frame. Rows sum to 1 and are not negative."""
    place = np.arange(frames) / INTERVAL
    first = place.astype(int)
    t = place - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    matrix = np.zeros((frames, first[-1] + 4))
    np.put_along_axis(matrix, first[:, None] + np.arange(4), weights, axis=1)
    return matrix


@lru_cache(maxsize=8)
def _walk_matrix(controls: int) -> Array:
    """(controls, controls): from independent steps to the places they lead to, each step keeping part of the last."""
    lag = np.subtract.outer(np.arange(controls), np.arange(controls))
    steps = np.where(lag >= 0, _INERTIA ** np.maximum(lag, 0), 0) * np.sqrt(1 - _INERTIA**2)
    return np.tril(np.ones((controls, controls))) @ steps


def wiggle(rng: np.random.Generator, frames: int, curves: int, deviation: float | Array) -> Array:
    """Curves (frames, curves) about 0 that start anywhere.

    Args:
        rng: gives one normal number for each control value.
        frames: of the sequence.
        curves: how many.
        deviation: of the control values; one number or one for each curve.

    """
    matrix = spline_matrix(frames)
    return matrix @ (deviation * rng.standard_normal((matrix.shape[1], curves)))


def wander(rng: np.random.Generator, frames: int, speed: Array, low: Array, high: Array) -> Array:
    """Paths (frames, objects, 2) with inertia; a path turns back where it would leave its box.

    Args:
        rng: gives two uniform numbers for each object and two normal ones for each of its control points.
        frames: of the sequence.
        speed: (objects,) root mean square of the control points' steps, in pixels a frame.
        low: (objects, 2) one corner of each object's box, in pixels.
        high: (objects, 2) the other.

    """
    matrix = spline_matrix(frames)
    controls = matrix.shape[1]
    steps = rng.standard_normal((controls, speed.size * 2)) * np.repeat(speed * INTERVAL / np.sqrt(2), 2)
    start = rng.uniform(low, high)
    points = start + (_walk_matrix(controls) @ steps).reshape(controls, speed.size, 2)
    extent = np.maximum(high - low, 1e-9)
    folded = low + extent - np.abs((points - low) % (2 * extent) - extent)
    return np.tensordot(matrix, folded, axes=1)
