"""What GRM is trained to minimise (the paper's Section 3.4 and its appendix C, as the published code computes them).

Boxes are (B, 4) float32: centre x, centre y, width and height in sides of the search region.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from grm_kernels import Category

from ..config import LossConfig
from ..model import Division, Prediction
from ..model.head import boxes_at

#: Exponents of the focal loss: of the score's distance from the truth, and of the Gaussian's distance from 1.
FOCAL_ALPHA, FOCAL_BETA = 2, 4
#: Corners may lie so far off that the box still overlaps the truth by this: gives the Gaussian its radius.
MINIMUM_OVERLAP = 0.7
#: Inside the logarithms of the entropy.
ENTROPY_EPSILON = 1e-5


class Losses(NamedTuple):
    """The loss of a batch and its terms, before their weights; scalars of float32 or wider."""

    total: Tensor
    focal: Tensor
    giou: Tensor
    l1: Tensor
    #: Zero where the configuration gives it no weight, as is the next.
    entropy: Tensor
    division: Tensor
    #: Not a loss: mean overlap of true boxes with those at the highest score.
    iou: Tensor


def training_losses(prediction: Prediction, boxes: Tensor, weights: LossConfig) -> Losses:
    """The loss of a prediction.

    Offset and size learn at one cell of each map: `LossConfig.box_cell`.

    Args:
        prediction: of a model in training mode.
        boxes: the truth; may reach over the search region.
        weights: of the terms.

    Raises:
        ValueError: the entropy or the supervision has a weight, and no layer a division that it could be of.

    """
    boxes = boxes.to(prediction.boxes.dtype)
    side = prediction.score_map.shape[-1]
    truth = corners(boxes).clamp(0, 1)
    judged = corners(prediction.boxes)
    iou, giou = overlaps(judged, truth)
    if weights.box_cell == "center":
        x, y = center_cells(boxes, side).long().clamp(0, side - 1).unbind(-1)
        cell = (y * side + x).unsqueeze(1)
        judged = corners(boxes_at(cell, prediction.size_map, prediction.offset_map))
        _, giou = overlaps(judged, truth)
    zero = prediction.boxes.new_zeros(())
    terms = {
        "focal": focal_loss(prediction.score_map.squeeze(1), gaussian_target(boxes, side)),
        "giou": (1 - giou).mean(),
        "l1": (judged - truth).abs().mean(),
        "entropy": division_entropy(prediction.divisions) if weights.entropy else zero,
        "division": division_supervision(prediction.divisions, boxes, side) if weights.division else zero,
    }
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return Losses(total, **terms, iou=iou.mean().detach())


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height to x1, y1, x2, y2."""
    center, extent = boxes.split(2, dim=-1)
    return torch.cat([center - extent / 2, center + extent / 2], dim=-1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019) of corners (B, 4) and (B, 4), pair by pair: (B,) each.

    GIoU = IoU - (hull - union) / hull, with the smallest box around both as hull. A truth that was cut to nothing has
    no area; both stay finite as long as one of the two boxes has some.
    """
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    intersection = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(-1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    union = area_a + area_b - intersection
    iou = intersection / union
    return iou, iou - (hull - union) / hull


def gaussian_radius(width: Tensor, height: Tensor) -> Tensor:
    """CornerNet's radius in cells, as published: of three cases the smallest, each with its "+" root over 2.

    (The root of a x^2 + b x + c is over 2 a; the published formula drops the a, and weights were trained with it.)

    Args:
        width, height: (B,) of the target, in cells.

    """
    t, total, area = MINIMUM_OVERLAP, width + height, width * height
    cases = (
        (1, total, area * (1 - t) / (1 + t)),
        (4, 2 * total, area * (1 - t)),
        (4 * t, -2 * t * total, area * (t - 1)),
    )
    roots = [(b + (b * b - 4 * a * c).sqrt()) / 2 for a, b, c in cases]
    return torch.stack(roots).amin(0)


def center_cells(boxes: Tensor, side: int) -> Tensor:
    """(B, 2): column and row of the cells nearest to the centres, halves to even; outside of the map for some."""
    return (boxes[:, :2] * side).round()


def gaussian_target(boxes: Tensor, side: int) -> Tensor:
    """What the score map should be: (B, F, F), 1 in the cell nearest to the centre and a Gaussian around it.

    The Gaussian ends at its radius r; its deviation is (2 r + 1) / 6 cells. Of a centre outside the map only the tail
    is there.

    Args:
        boxes: (B, 4), the truth.
        side: F of the map, in cells.

    """
    cells = boxes.detach() * side
    radius = gaussian_radius(cells[:, 2], cells[:, 3]).clamp_min(0).trunc().view(-1, 1, 1)
    x, y = center_cells(boxes.detach(), side).unbind(-1)
    index = torch.arange(side, device=boxes.device, dtype=cells.dtype)
    dx = (index - x.unsqueeze(-1)).unsqueeze(1)  # (B, 1, F)
    dy = (index - y.unsqueeze(-1)).unsqueeze(2)  # (B, F, 1)
    deviation = (2 * radius + 1) / 6
    inside = (dx.abs() <= radius) & (dy.abs() <= radius)
    return torch.where(inside, (-(dx**2 + dy**2) / (2 * deviation**2)).exp(), 0)


def focal_loss(score: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss of scores in (0, 1), over the number of cells whose target is 1 (over 1 with none).

    Args:
        score, target: (B, F, F).

    """
    positive = target == 1
    at_center = -score.log() * (1 - score) ** FOCAL_ALPHA
    elsewhere = -(1 - score).log() * score**FOCAL_ALPHA * (1 - target) ** FOCAL_BETA
    return torch.where(positive, at_center, elsewhere).sum() / positive.sum().clamp_min(1)


def division_entropy(divisions: tuple[Division, ...]) -> Tensor:
    """Appendix C.2: drives each layer's division of a sample from all of one category towards half and half.

    1 + p log2(p + e) + (1 - p) log2(1 - p + e), p the share of A among the search tokens of a sample, e = 1e-5; the
    mean over samples and dividing layers. Its gradient goes through the straight-through policy.
    """
    policies = [division.policy for division in divisions if division.policy is not None]
    if not policies:
        raise ValueError("entropy: no layer of this model has a policy; its weight has to be 0")
    p = torch.stack([policy[..., Category.A].mean(-1) for policy in policies])
    return (1 + p * (p + ENTROPY_EPSILON).log2() + (1 - p) * (1 - p + ENTROPY_EPSILON).log2()).mean()


def division_supervision(divisions: tuple[Division, ...], boxes: Tensor, side: int) -> Tensor:
    """Appendix C.1: cross-entropy of "this token may meet the template" with "its cell's centre lies in the true box".

    The mean over tokens, samples and dividing layers. The first column of a prediction is S; what is not S meets the
    template, in A or T.

    Args:
        divisions: of all layers; those without a prediction are left out.
        boxes: (B, 4), the truth.
        side: F of the search region, in cells.

    """
    predictions = [division.log_probs for division in divisions if division.log_probs is not None]
    if not predictions:
        raise ValueError("division: no layer of this model predicts one; the weight of its supervision has to be 0")
    log_probs = torch.stack(predictions)  # (layers, B, F * F, C)
    label = inside_box(boxes, side).flatten(1)
    meets = log_probs[..., 1:].logsumexp(-1)
    return -torch.where(label, meets, log_probs[..., 0]).mean()


def inside_box(boxes: Tensor, side: int) -> Tensor:
    """(B, F, F) bool: does the centre of the cell lie in the box? Its edges count."""
    centers = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    x1, y1, x2, y2 = (edge.unsqueeze(-1) for edge in corners(boxes).unbind(-1))
    columns, rows = (x1 <= centers) & (centers <= x2), (y1 <= centers) & (centers <= y2)
    return rows.unsqueeze(2) & columns.unsqueeze(1)
