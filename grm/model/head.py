"""The centre head: from features of the search region to a box."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grm_kernels import centre

from .convolution import ConvolutionBlock

#: Scores and sizes stay this far from 0 and 1, for the sake of the focal loss.
MARGIN = 1e-4


class HeadMaps(NamedTuple):
    """What the head says of every cell of the search region, F x F of them; float32 or wider."""

    #: (B, 1, F, F) in [1e-4, 1 - 1e-4]: is this cell the centre of the target?
    score: Tensor
    #: (B, 2, F, F) in [1e-4, 1 - 1e-4]: width and height of the target, in sides of the search region.
    size: Tensor
    #: (B, 2, F, F): x and y of the target's centre, in cells from the cell's corner.
    offset: Tensor


class CenterHead(nn.Module):
    """Three branches (centre, size, offset) of four convolution blocks and a 1x1 convolution each.

    Args:
        width: channels of the features.
        channels: of the first block; halved from each to the next.
        score_prior: score of every cell that new weights begin with, about.
        backend: of attention; the merged head's is the same, where it has it.

    """

    def __init__(self, width: int, channels: int, score_prior: float = 0.5, backend: str | None = None):
        super().__init__()
        self.backend = backend
        self.center = _branch(width, channels, 1)
        self.size = _branch(width, channels, 2)
        self.offset = _branch(width, channels, 2)
        #: All three, see `merge`.
        self.merged: nn.ModuleList | None = None
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        with torch.no_grad():
            self.center[-1].bias += math.log(score_prior / (1 - score_prior))

    def forward(self, features: Tensor, window: Tensor | None = None) -> tuple[HeadMaps, Tensor, Tensor]:
        """Maps of features (B, width, F, F); boxes and scores as `decode_boxes` finds them."""
        if self.merged is not None and centre.serves(features, self.merged[-1].weight, self.backend):
            return self._find(features, window)
        maps = self._maps(features)
        return maps, *decode_boxes(maps, window)

    def _maps(self, features: Tensor) -> HeadMaps:
        if self.merged is not None:
            for convolution in self.merged[:-1]:
                features = convolution(features).relu()
            maps = _widened(self.merged[-1](features))
            bounded = maps[:, :4].sigmoid().clamp(MARGIN, 1 - MARGIN)
            return HeadMaps(bounded[:, :1], bounded[:, 2:], maps[:, 4:])
        score, size, offset = (_widened(branch(features)) for branch in (self.center, self.size, self.offset))
        return HeadMaps(score.sigmoid().clamp(MARGIN, 1 - MARGIN), size.sigmoid().clamp(MARGIN, 1 - MARGIN), offset)

    def _find(self, features: Tensor, window: Tensor | None) -> tuple[HeadMaps, Tensor, Tensor]:
        """The merged head by the operators of `grm_kernels.centre`, which add the biases of the convolutions."""
        *convolutions, last = self.merged
        for i, convolution in enumerate(convolutions):
            if i:
                features = centre.bias_relu(features, convolutions[i - 1].bias)
            weight, padding = convolution.weight, convolution.padding
            features = F.conv2d(features, weight, padding=padding, groups=convolution.groups)
        weight = last.weight.flatten(1)
        maps, boxes, scores = centre.find_centre(features, convolutions[-1].bias, weight, last.bias, window, MARGIN)
        return HeadMaps(maps[:, :1], maps[:, 1:3], maps[:, 3:]), boxes, scores

    def merge(self) -> None:
        """Makes one of the three branches, which then run at the same time; for inference only, and for good.

        The first convolution has the outputs of all three, the others have them as groups. The batch normalisations are
        folded before. A centre has one output, so its group gets a second one, which is not read.
        """
        branches = (self.center, self.size, self.offset)
        convolutions = [[branch[number].convolution for branch in branches] for number in range(4)]
        convolutions.append([branch[4] for branch in branches])
        self.merged = nn.ModuleList(_grouped(group, groups=1 if i == 0 else 3) for i, group in enumerate(convolutions))
        del self.center, self.size, self.offset


def decode_boxes(maps: HeadMaps, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The box at the cell with the highest score: ((x + dx) / F, (y + dy) / F, w, h).

    Args:
        maps: of a batch of B.
        window: (F, F), multiplies the scores for the choice of the cell.

    Returns:
        boxes: (B, 4) as centre x, centre y, width, height in sides of the search region; not clipped.
        scores: (B,), the score at the cell, without the window.

    """
    score = maps.score.flatten(1)  # (B, F * F)
    cell = (score if window is None else score * window.flatten()).argmax(dim=1, keepdim=True)
    return boxes_at(cell, maps.size, maps.offset), score.gather(1, cell).squeeze(1)


def boxes_at(cell: Tensor, size_map: Tensor, offset_map: Tensor) -> Tensor:
    """The boxes (B, 4) that cells (B, 1), numbered row by row, stand for; maps as in `HeadMaps`, boxes as in
    `decode_boxes`.
    """
    side = size_map.shape[-1]
    size, offset = (
        m.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, 2, 1)).squeeze(2) for m in (size_map, offset_map)
    )
    corner = torch.cat([cell % side, cell // side], dim=1)
    return torch.cat([(corner + offset) / side, size], dim=1)


def _branch(width: int, channels: int, outputs: int) -> nn.Sequential:
    widths = [width, *(channels >> i for i in range(4))]
    blocks = [ConvolutionBlock(widths[i], widths[i + 1]) for i in range(4)]
    return nn.Sequential(*blocks, nn.Conv2d(widths[-1], outputs, 1))


def _grouped(convolutions: list[nn.Conv2d], groups: int) -> nn.Conv2d:
    """Convolutions of one kernel side by side: on the same input, or each on its own part of it."""
    outputs = max(convolution.out_channels for convolution in convolutions)
    inputs, kernel = convolutions[0].in_channels * groups, convolutions[0].kernel_size
    like = convolutions[0].weight
    merged = nn.Conv2d(
        inputs, outputs * len(convolutions), kernel, padding=convolutions[0].padding, groups=groups, device="meta"
    )
    weight = like.new_zeros(len(convolutions), outputs, *like.shape[1:])
    bias = like.new_zeros(len(convolutions), outputs)
    for i, convolution in enumerate(convolutions):
        weight[i, : convolution.out_channels] = convolution.weight
        bias[i, : convolution.out_channels] = convolution.bias
    merged.weight, merged.bias = (nn.Parameter(x.flatten(0, 1), requires_grad=False) for x in (weight, bias))
    return merged


def _widened(x: Tensor) -> Tensor:
    """A tensor in float32 or wider: eight bits of a coordinate are not enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
