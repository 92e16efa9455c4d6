"""Pixels made what the network reads."""

import torch
from torch import Tensor

#: ImageNet's, in units of full scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def normalize_images(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Takes out ImageNet's mean and deviation.

    Args:
        images: (B, 3, h, w) RGB from 0 to 255, of any dtype, on any device; in any memory format, which is kept.
        dtype: of the result; it is computed in float32.

    """
    # Channel by channel with Python's numbers: tensors of constants would have to be copied to a GPU first.
    normalized = images.to(torch.float32, copy=True)
    for channel, mean, deviation in zip(normalized.unbind(1), IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True):
        channel.mul_(1 / (255 * deviation)).sub_(mean / deviation)
    return normalized.to(dtype)
