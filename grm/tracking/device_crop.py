"""Search crops cut out on the device of the model: one copy to it brings the frame and where to cut.

The same samples and weights as OpenCV's bilinear scaling (`grm.crop.crop_image`), which rounds them to fixed point.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..crop import CropRegion, Image

# Numbers of 8 bytes in front of the pixels: height and width of the frame, then top, left and side of each region.
_OF_FRAME, _OF_REGION, _BYTES = 2, 3, 8


class PackedCrops(NamedTuple):
    """A frame and the regions to cut out of it, on the way to a device."""

    #: (bytes,) uint8 on the host: the numbers, then the frame's pixels.
    data: Tensor
    #: Of regions, M.
    regions: int


def pack_crops(frame: Image, regions: list[CropRegion], *, pinned: bool) -> PackedCrops:
    """Copies a frame (height, width, 3) and regions of it together.

    Args:
        frame: any strides.
        regions: M of them.
        pinned: into memory that a GPU copies from by itself; torch keeps such memory and hands it out again.

    """
    start = _start(len(regions))
    data = torch.empty(start + frame.size, dtype=torch.uint8, pin_memory=pinned)
    array = data.numpy()
    numbers = [frame.shape[0], frame.shape[1]]
    for region in regions:
        numbers += [region.top, region.left, region.side]
    array[:start].view(np.int64)[:] = numbers
    array[start:].reshape(frame.shape)[:] = frame
    return PackedCrops(data, len(regions))


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
    numbers = data[:start].view(torch.int64)
    extent, regions = numbers[:_OF_FRAME], numbers[_OF_FRAME:].view(count, _OF_REGION)
    index, weights = _samples(regions[:, :2], regions[:, 2:], extent, size)
    (rows, columns), (row_weights, column_weights) = index.unbind(1), weights.unbind(1)
    taps = data[start:].view(-1, 3)[rows[:, :, None, :, None] * extent[1] + columns[:, None, :, None, :]]
    shares = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    return (taps * shares[..., None]).sum((1, 2)).permute(0, 3, 1, 2)


def _samples(first: Tensor, side: Tensor, extent: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two lines of a frame that each row and column of a crop is mixed of, and their weights: (M, 2, 2, size).

    Line i lies at (i + 1/2) side / size - 1/2 of the region, computed here in whole numbers of 1 / (2 size), and is
    moved into the region; lines outside the frame have weight 0.

    Args:
        first: (M, 2) row and column at which the regions begin.
        side: (M, 1) of the regions.
        extent: (2,) rows and columns of the frame.
        size: of the crops.

    """
    place = (2 * torch.arange(size, device=side.device) + 1) * side - size
    whole = torch.div(place, 2 * size, rounding_mode="floor")
    part = (place - 2 * size * whole).float() / (2 * size)
    whole = torch.minimum(torch.stack([whole, whole + 1], dim=1).clamp(min=0), side[:, None] - 1)
    index = first[..., None, None] + whole[:, None]
    last = extent[:, None, None] - 1
    weights = torch.stack([1 - part, part], dim=1)[:, None] * ((index >= 0) & (index < last))
    return torch.minimum(index.clamp(min=0), last), weights


def _start(count: int) -> int:
    """Where the pixels begin."""
    return _BYTES * (_OF_FRAME + _OF_REGION * count)
