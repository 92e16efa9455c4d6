"""Boxes in pixels of a frame: (..., 4) float64 arrays of x, y, width, height.

Coordinates are continuous: x = 0 is the frame's left edge, pixel i covers [i, i + 1].
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BoxError

Boxes = NDArray[np.float64]

#: A tracked box stays this many pixels inside the frame and is at least as large, as in the published tracker.
CLIP_MARGIN = 10
#: Square roots of the areas of boxes that can be cropped, in pixels: OpenCV's images have sides below 2^15.
SMALLEST, LARGEST = 1e-3, 4000
#: No pixel of any frame is so far from its edge; what is computed with numbers below does not overflow.
FARTHEST = 1e12


def as_boxes(boxes: ArrayLike, name: str = "box") -> Boxes:
    """Checked copy of boxes: (..., 4), of numbers below FARTHEST, with positive width and height.

    Raises:
        BoxError: they are not.

    """
    try:
        array: NDArray[Any] = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BoxError(f"{name}: expected numbers x, y, width, height: {str(error).splitlines()[0]}") from None
    if array.ndim == 0 or array.shape[-1] != 4:
        raise BoxError(f"{name}: expected x, y, width, height in the last dimension, got shape {array.shape}")
    wrong = ~can_be(array)
    if wrong.any():
        first = array[wrong][0].tolist() if array.ndim > 1 else array.tolist()
        raise BoxError(
            f"{name}: expected numbers below {FARTHEST:g} with positive width and height, got x, y, w, h = {first}"
        )
    return array


def can_be(boxes: Boxes) -> NDArray[np.bool_]:
    """(...,) whether rows of numbers (..., 4) can be boxes: below FARTHEST, with positive width and height."""
    return np.asarray((np.abs(boxes) < FARTHEST).all(-1) & (boxes[..., 2:] > 0).all(-1))


def has_box(boxes: Boxes) -> NDArray[np.bool_]:
    """(...,) which of boxes (..., 4) are there: a row of NaN stands for none."""
    return np.asarray(np.isfinite(boxes).all(-1))


def can_be_cropped(boxes: Boxes) -> NDArray[np.bool_]:
    """(...,) whether boxes (..., 4) of positive width and height are from SMALLEST to LARGEST."""
    size = np.sqrt(boxes[..., 2]) * np.sqrt(boxes[..., 3])
    return (size >= SMALLEST) & (size <= LARGEST)


def clip_boxes(boxes: Boxes, width: int, height: int, margin: int = CLIP_MARGIN) -> Boxes:
    """Clips boxes to a frame, as the published tracker does.

    The left edge goes to [0, width - margin], the right edge to [margin, width], and the box is at least `margin` wide;
    likewise for its rows. A box outside the frame ends up at its nearest edge.

    Args:
        boxes: (..., 4).
        width: of the frame, in pixels; at least `margin`.
        height: of the frame, in pixels; at least `margin`.
        margin: in pixels.

    """
    limit = np.array([width, height], dtype=np.float64)
    first = np.clip(boxes[..., :2], 0, limit - margin)
    last = np.clip(boxes[..., :2] + boxes[..., 2:], margin, limit)
    return np.concatenate([first, np.maximum(last - first, margin)], axis=-1)


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) and (..., 4), broadcast; 0 where the union is empty."""
    overlap = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.maximum(overlap, 0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
