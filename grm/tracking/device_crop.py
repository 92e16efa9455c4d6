"""Search crops cut out on the device of the model: one copy to it brings the frames and where to cut.

The same samples and weights as OpenCV's bilinear scaling (`grm.crop.crop_image`), which rounds them to fixed point.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..crop import CropRegion, Image

#: A frame (height, width, 3) uint8, of any strides, and the regions to cut out of it.
View = tuple[Image, Sequence[CropRegion]]

# Numbers of 8 bytes in front of the pixels, for each region: height and width of its frame, the place of the frame's
# first pixel among all, then top, left and side of the region.
_OF_REGION, _BYTES = 6, 8


class PackedCrops(NamedTuple):
    """Frames and the regions to cut out of them, on the way to a device."""

    #: (bytes,) uint8 on the host: the numbers, then the pixels of all frames.
    data: Tensor
    #: Of regions, M.
    regions: int


def pack_crops(views: Sequence[View], *, pinned: bool) -> PackedCrops:
    """Copies frames and regions of them together.

    Args:
        views: of M regions in all.
        pinned: into memory that a GPU copies from by itself; torch keeps such memory and hands it out again.

    """
    count = sum(len(regions) for _, regions in views)
    start = _start(count)
    data = torch.empty(start + sum(frame.size for frame, _ in views), dtype=torch.uint8, pin_memory=pinned)
    array = data.numpy()
    numbers: list[int] = []
    place = 0
    for frame, regions in views:
        for region in regions:
            numbers += [*frame.shape[:2], place // 3, region.top, region.left, region.side]
        array[start + place : start + place + frame.size].reshape(frame.shape)[:] = frame
        place += frame.size
    array[:start].view(np.int64)[:] = numbers
    return PackedCrops(data, count)


def cut_crops(data: Tensor, count: int, size: int) -> Tensor:
    """Crops of M regions, scaled bilinearly: (M, 3, size, size) float32 from 0 to 255, channels last in memory.

    Nothing of it depends on the values on the host, so that a CUDA graph of it serves frames of any size. Black where a
    region reaches over the edges of the frame, the last row and column of which are never shown, as published.

    Args:
        data: (bytes,) as of `PackedCrops`, on any device; more may follow.
        count: of regions, M.
        size: of the crops in pixels.

    """
    start = _start(count)
    numbers = data[:start].view(torch.int64).view(count, _OF_REGION)
    extent, begin, first, side = numbers.split((2, 1, 2, 1), dim=1)
    index, weights = _samples(first, side, extent, size)
    (rows, columns), (row_weights, column_weights) = index.unbind(1), weights.unbind(1)
    rows = begin[:, :, None] + rows * extent[:, 1:, None]
    taps = data[start:].view(-1, 3)[rows[:, :, None, :, None] + columns[:, None, :, None, :]]
    shares = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    return (taps * shares[..., None]).sum((1, 2)).permute(0, 3, 1, 2)


def _samples(first: Tensor, side: Tensor, extent: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two lines of a frame that each row and column of a crop is mixed of, and their weights: (M, 2, 2, size).

    Line i lies at (i + 1/2) side / size - 1/2 of the region, computed here in whole numbers of 1 / (2 size), and is
    moved into the region; lines outside the frame have weight 0.

    Args:
        first: (M, 2) row and column at which the regions begin.
        side: (M, 1) of the regions.
        extent: (M, 2) rows and columns of their frames.
        size: of the crops.

    """
    place = (2 * torch.arange(size, device=side.device) + 1) * side - size
    whole = torch.div(place, 2 * size, rounding_mode="floor")
    part = (place - 2 * size * whole).float() / (2 * size)
    whole = torch.minimum(torch.stack([whole, whole + 1], dim=1).clamp(min=0), side[:, None] - 1)
    index = first[..., None, None] + whole[:, None]
    last = extent[..., None, None] - 1
    weights = torch.stack([1 - part, part], dim=1)[:, None] * ((index >= 0) & (index < last))
    return torch.minimum(index.clamp(min=0), last), weights


def _start(count: int) -> int:
    """Where the pixels begin."""
    return _BYTES * _OF_REGION * count
