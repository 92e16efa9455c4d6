"""A model that tracks without training, as it looks for what is bright; and videos with a bright square in them."""

import numpy as np
import torch
from torch import nn

from grm.model import GRM, Division, HeadMaps, decode_boxes

from ..model.small import small_config

#: Side of the model's boxes, in sides of the search region.
BOX = 0.25


class BrightnessEncoder(nn.Module):
    """Tokens and features are the mean colours of patches; bright search tokens are A, others S."""

    def __init__(self, config):
        super().__init__()
        self.patch, self.depth = config.encoder.patch, config.encoder.depth
        self.weight = nn.Parameter(torch.zeros(()))  # says the device and the dtype

    def tokens(self, images, box=None):
        return nn.functional.avg_pool2d(images, self.patch).flatten(2).transpose(1, 2)

    template_tokens = search_tokens = tokens

    def forward(self, template, search):
        division = Division(torch.where(search[..., 0] > 0, 2, 1).to(torch.uint8))
        return search, (division,) * self.depth


class BrightnessHead(nn.Module):
    """Scores rise with brightness; boxes have their centre in the middle of the cell, and one size."""

    def forward(self, features, window=None):
        score = features[:, :1].float().sigmoid().clamp(1e-4, 1 - 1e-4)
        pair = torch.ones_like(score).expand(-1, 2, -1, -1)
        maps = HeadMaps(score, BOX * pair, 0.5 * pair)
        return maps, *decode_boxes(maps, window)


def brightness_model():
    """A GRM that follows what is bright: search crops of 64 x 64 pixels and 8 x 8 cells."""
    config = small_config("encoder.width=3", "encoder.heads=1", "encoder.patch=8")
    model = GRM(config)
    model.encoder, model.head = BrightnessEncoder(config), BrightnessHead()
    return model.eval()


def square_video(corners, height=120, width=160, side=16):
    """Frames that are black but for a white square, whose corner (x, y) is given for each."""
    frames = np.zeros((len(corners), height, width, 3), dtype=np.uint8)
    for frame, (x, y) in zip(frames, corners, strict=True):
        frame[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] = 255
    return frames


def noise_frames(count=4, height=90, width=120, seed=0):
    """Frames of smooth noise, in which no two places look the same."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 6, width // 6, generator=generator)
    frames = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (255 * frames).byte().permute(0, 2, 3, 1).contiguous().numpy()
