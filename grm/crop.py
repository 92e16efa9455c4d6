"""Square crops around a target: what the model reads of a frame, and how boxes go from one to the other.

The rules are those of the published implementation, so that weights trained with it behave.
"""

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .boxes import Boxes

Image = NDArray[np.uint8]
#: How a prediction becomes a box of the frame: see `CropRegion.to_frame`.
BoxMapping = Literal["published", "exact"]

# Pixels of a crop from one sample of `CropRegion.grid_holds_pixels` to the next, whatever the model's patches are.
_GRID = 16


class CropRegion(NamedTuple):
    """A square of whole pixels of a frame; it may reach over the frame's edges."""

    #: Where it was asked to be centred, in pixels of the frame. The pixels it has lie up to half a pixel off.
    center_x: float
    center_y: float
    #: In pixels of the frame.
    side: int

    @property
    def left(self) -> int:
        """Its first column. Halves go to the even neighbour."""
        return round(self.center_x - self.side / 2)

    @property
    def top(self) -> int:
        """Its first row. Halves go to the even neighbour."""
        return round(self.center_y - self.side / 2)

    def to_crop(self, boxes: Boxes, size: int) -> NDArray[np.float64]:
        """Boxes as the model is to predict them: centre x, centre y, width, height in sides of the crop.

        The centre of the crop is (size - 1) / (2 size): centres are counted in indices of pixels, not from their edges.

        Args:
            boxes: (..., 4) x, y, width, height in pixels of the frame.
            size: of the crop in pixels, as the model sees it.

        """
        center = (boxes[..., :2] + boxes[..., 2:] / 2 - (self.center_x, self.center_y)) / self.side
        return np.concatenate([center + (size - 1) / (2 * size), boxes[..., 2:] / self.side], axis=-1)

    def to_frame(self, predicted: NDArray[np.floating], size: int, mapping: BoxMapping = "published") -> Boxes:
        """Boxes of the frame, x, y, width, height in its pixels, from the model's.

        The published tracker maps 1/2 to the centre it asked for. That is half a pixel of the crop off what the model
        is trained on (see `to_crop`), and forgets that the region was moved to whole pixels. "exact" mends both.

        Args:
            predicted: (..., 4) centre x, centre y, width, height in sides of the crop.
            size: of the crop in pixels, as the model saw it.
            mapping: "published" or "exact".

        """
        predicted = predicted.astype(np.float64)
        if mapping == "published":
            origin, middle = (self.center_x, self.center_y), 1 / 2
        else:
            origin, middle = (self.left + self.side / 2, self.top + self.side / 2), (size - 1) / (2 * size)
        extent = predicted[..., 2:] * self.side
        center = origin + (predicted[..., :2] - middle) * self.side
        return np.concatenate([center - extent / 2, extent], axis=-1)

    def holds_pixels(self, width: int, height: int) -> bool:
        """Whether its crop of a frame of this size in pixels shows any of the frame."""
        columns, rows = self._inside(width, height)
        return len(columns) > 0 and len(rows) > 0

    def shown(self, width: int, height: int, size: int) -> tuple[slice, slice]:
        """The rows and columns of its crop that show nothing but the frame; empty where there are none.

        Args:
            width, height: of the frame in pixels.
            size: of the crop in pixels.

        """
        columns, rows = self._inside(width, height)
        return _run(_of_frame(rows, self.top, self.side, size)), _run(_of_frame(columns, self.left, self.side, size))

    def grid_holds_pixels(self, width: int, height: int, size: int, *, mirrored: bool = False) -> bool:
        """Whether a grid of samples of its crop, one for every 16 pixels from the first on, shows any of the frame.

        The published rule for a training crop that is worth its place: all others are drawn again. A pixel of the crop
        that interpolates between the frame and what is beyond its edge counts as beyond.

        Args:
            width, height: of the frame in pixels.
            size: of the crop in pixels.
            mirrored: left and right are exchanged before the samples are taken.

        """
        columns, rows = self._inside(width, height)
        count = max(1, size // _GRID)
        samples = np.arange(count) * size // count
        of_columns = _of_frame(columns, self.left, self.side, size)[:: -1 if mirrored else 1]
        of_rows = _of_frame(rows, self.top, self.side, size)
        return bool(of_columns[samples].any() and of_rows[samples].any())

    def _inside(self, width: int, height: int) -> tuple[range, range]:
        """The columns and rows of the frame that the crop shows. The last of each never does, as published."""
        return (
            range(max(0, self.left), min(self.left + self.side, width - 1)),
            range(max(0, self.top), min(self.top + self.side, height - 1)),
        )


def _of_frame(inside: range, first: int, side: int, size: int) -> NDArray[np.bool_]:
    """(size,) the columns, or rows, of a crop that show nothing but the frame; `inside` it are those of the region."""
    beyond = np.ones((1, side))
    if inside:
        beyond[:, inside.start - first : inside.stop - first] = 0
    return cv2.resize(beyond, (size, 1), interpolation=cv2.INTER_LINEAR)[0] == 0


def _run(flags: NDArray[np.bool_]) -> slice:
    """Where the one run of True lies."""
    first = int(flags.argmax())
    return slice(first, first + int(flags.sum()))


def crop_region(box: Boxes, factor: float) -> CropRegion:
    """The square around a box whose side is the square root of the box's area, times a factor, rounded up.

    Args:
        box: (4,) x, y, width, height in pixels, width and height positive.
        factor: see `grm.config.CropConfig`.

    """
    x, y, width, height = (float(value) for value in box)
    return CropRegion(x + width / 2, y + height / 2, math.ceil(math.sqrt(width * height) * factor))


def crop_image(frame: Image, region: CropRegion, size: int) -> Image:
    """Cuts a region out of a frame and scales it (bilinear). Black where it reaches over the edges.

    Args:
        frame: (height, width, 3).
        region: of the frame.
        size: of the crop's side in pixels.

    Returns:
        (size, size, 3); may be a view of the frame.

    """
    columns, rows = region._inside(frame.shape[1], frame.shape[0])
    if not (columns and rows):
        return np.zeros((size, size, frame.shape[2]), dtype=frame.dtype)
    shown = frame[rows.start : rows.stop, columns.start : columns.stop]
    if len(columns) < region.side or len(rows) < region.side:
        padded = np.zeros((region.side, region.side, frame.shape[2]), dtype=frame.dtype)
        y, x = rows.start - region.top, columns.start - region.left
        padded[y : y + len(rows), x : x + len(columns)] = shown
        shown = padded
    return cv2.resize(shown, (size, size), interpolation=cv2.INTER_LINEAR)
