"""Cut-outs: photographed objects with an opacity for each pixel, for synthetic video to show."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...crop import Image
from ...errors import DataError
from ...media.images import list_frames, read_with_opacity
from .shapes import REACH, Array, Shape

# Side of a cut-out's texture in pixels.
_SIDE = 144
# What is less opaque than this, of 255, is outside of the outline.
_OPAQUE = 100
# A cut-out that fills less than this share of its box, or has one below so many pixels, is left out.
_FILLED, _SMALLEST = 0.15, 20
# At most so many points of the outline, and about so many inside of it.
_CORNERS, _INSIDE = 96, 64


class Cutout(Shape):
    """The shape and the texture of a photographed object."""

    def __init__(self, image: Image) -> None:
        """Cuts the object out of an image (height, width, 4): RGB and opacity.

        Raises:
            DataError: it is too small, or fills too little of its box.

        """
        opaque = image[..., 3] > _OPAQUE
        left, top, width, height = cv2.boundingRect(opaque.astype(np.uint8))
        if min(width, height) < _SMALLEST or opaque.sum() < _FILLED * width * height:
            raise DataError(
                f"expected {_SMALLEST} opaque pixels or more each way, and {_FILLED:.0%} of their box filled"
            )
        right, bottom = left + width, top + height
        #: Width over height of its outline's box.
        self.aspect = width / height
        # Its box becomes -1 to 1, of a texture that reaches from -REACH to REACH.
        half, middle = _SIDE / (2 * REACH), _SIDE / 2
        scale = 2 * half / np.array([right - left, bottom - top])
        shift = middle - scale * np.array([left + right, top + bottom]) / 2
        # Matrices count from the middles of pixels.
        matrix = np.column_stack([np.diag(scale), shift + scale / 2 - 0.5])
        shrinking = scale.max() < 1
        if shrinking:  # a warp has no filter of its own
            image = cv2.blur(image, tuple(int(n) for n in np.ceil(1 / scale)))
        whole = cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR)
        #: (side, side, 3).
        self.texture: Image = np.ascontiguousarray(whole[..., :3])
        self._alpha = np.ascontiguousarray(whole[..., 3])
        mask = (self._alpha > _OPAQUE).astype(np.uint8)
        if not mask.any():
            raise DataError("expected an object, got lines that are gone when it is made smaller")
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outline = np.concatenate(outlines)[:, 0]
        # The furthest points each way are kept, whichever of the others are.
        extremes = [outline[:, axis].argmin() for axis in (0, 1)] + [outline[:, axis].argmax() for axis in (0, 1)]
        some = np.linspace(0, len(outline) - 1, _CORNERS - len(extremes)).astype(int)
        corners = _own_units(outline[np.unique([*some, *extremes])].T)
        self.corners = corners / np.abs(corners).max(axis=1, keepdims=True)
        y, x = np.nonzero(mask)
        every = max(1, len(x) // _INSIDE)
        self.inside = _own_units(np.stack([x, y])[:, every // 2 :: every])
        self.shares = np.full(self.inside.shape[1], 1 / self.inside.shape[1])

    def holds(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Which points are opaque; arrays of one shape."""
        column, row = (((value + REACH) * _SIDE / (2 * REACH)).astype(int) for value in (x, y))
        within = (column >= 0) & (row >= 0) & (column < _SIDE) & (row < _SIDE)
        return within & (self._alpha[row.clip(0, _SIDE - 1), column.clip(0, _SIDE - 1)] > _OPAQUE)

    def opacity(self, x_map: NDArray[np.float32], y_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """(rows, columns) in [0, 1] at these places of its texture."""
        alpha = cv2.remap(self._alpha, x_map, y_map, cv2.INTER_LINEAR)
        return alpha.astype(np.float32) * np.float32(1 / 255)


def _own_units(pixels: NDArray[np.integer]) -> Array:
    return (pixels.astype(np.float64) + 0.5) * (2 * REACH / _SIDE) - REACH


@lru_cache(maxsize=2)
def cutouts(folder: Path) -> tuple[Cutout, ...]:
    """The cut-outs of a folder: its images with an opacity that are large enough, in natural order.

    Raises:
        DataError: there is none.

    """
    found = []
    for name in list_frames(folder):
        # What cannot be read is named by `grm data check`.
        with suppress(DataError):
            if (image := read_with_opacity(folder / name)) is not None:
                found.append(Cutout(image))
    if not found:
        raise DataError(f"{folder}: holds no cut-outs: images with an opacity, {_SMALLEST} pixels or more each way")
    return tuple(found)
