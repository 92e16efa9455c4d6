"""How well tracked boxes agree with the truth: the figures of the benchmarks' own toolkits. Pure NumPy.

A protocol says which frames a sequence is divided by:

- `all-frames`: all of them; a frame without the target is one that was missed. LaSOT's toolkit counts so, and the
  common Python one counts success so.
- `valid-frames`: those with the target in sight. The published analysis of GRM counts success so, except on AVisT.

For the precisions the common Python toolkit has rules that are not followed here: outside of LaSOT a frame without the
target is a hit of the normalised one, on UAV123 of both. It also replaces a tracked box without an area by the one
before.

The first frame counts, and its box is the given one. GOT-10k has rules of its own: see `got10k_overlaps`. `restarts` is
another way to run a tracker: see `grm.evaluation.restarts`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes, iou

Floats = NDArray[np.float64]
Protocol = Literal["all-frames", "valid-frames", "restarts"]

#: (21,) overlaps that a frame has to exceed to be a success: 0, 0.05, ..., 1.
SUCCESS_THRESHOLDS: Floats = np.linspace(0, 1, 21)
#: (51,) distances in pixels within which a centre is precise: 0, 1, ..., 50.
PRECISION_THRESHOLDS: Floats = np.arange(51.0)
#: (51,) distances in sides of the true box within which a centre is precise: 0, 0.01, ..., 0.5.
NORMALIZED_THRESHOLDS: Floats = np.arange(51) / 100
# Where the curves are read.
_OP50, _OP75, _PIXELS, _SIDES = 10, 15, 20, 20


class FrameErrors(NamedTuple):
    """What is off in each of N frames."""

    #: (N,) intersection over union, in [0, 1]; 0 where the target is not in sight.
    overlap: Floats
    #: (N,) distance of the centres in pixels; infinite where the target is not in sight.
    distance: Floats
    #: (N,) the same, with x in widths and y in heights of the true box.
    normalized: Floats
    #: (N,) whether the target is in sight.
    valid: NDArray[np.bool_]


class Curves(NamedTuple):
    """Share of the frames of a sequence, or mean of such shares over sequences, by threshold. All in [0, 1]."""

    #: (21,) share of frames with an overlap above the threshold.
    success: Floats
    #: (51,) share of frames with a distance of the centres up to the threshold.
    precision: Floats
    #: (51,) share of frames with a normalised distance of the centres up to the threshold.
    normalized: Floats


class Scores(NamedTuple):
    """The figures that tables give, in [0, 1]."""

    #: Area under the success curve: the mean of its 21 values.
    auc: float
    #: Success at the overlaps 0.5 and 0.75.
    op50: float
    op75: float
    #: Precision at 20 pixels.
    precision: float
    #: Normalised precision at 0.2 sides of the true box.
    normalized_precision: float


class Got10kScores(NamedTuple):
    """The figures of GOT-10k, over the frames of all sequences together."""

    #: Average overlap.
    ao: float
    #: Shares of the frames with an overlap above 0.5 and 0.75.
    sr50: float
    sr75: float


def frame_errors(tracked: Boxes, truth: Boxes, visible: NDArray[np.bool_] | None = None) -> FrameErrors:
    """What is off in each frame of a sequence.

    The tracked box of the first frame is taken to be the true one. A tracked box that is not finite, or of negative
    size, misses its target; one of no area overlaps nothing and has a centre.

    Args:
        tracked: (N, 4) x, y, width, height in pixels, N at least 1.
        truth: (N, 4) likewise; NaN, or no area, where there is no box.
        visible: (N,) where the target is in sight; None: wherever it has a box.

    Raises:
        ValueError: arrays of other shapes.

    """
    tracked, truth = _checked(tracked, truth)
    valid = _has_area(truth)
    if visible is not None:
        if visible.shape != valid.shape:
            raise ValueError(f"visible: expected shape {valid.shape}, got {visible.shape}")
        valid &= visible
    tracked[0] = truth[0]
    hits = valid & np.isfinite(tracked).all(-1) & (tracked[:, 2:] >= 0).all(-1)
    overlap = np.zeros(len(truth))
    distance, normalized = np.full(len(truth), np.inf), np.full(len(truth), np.inf)
    found, target = tracked[hits], truth[hits]
    overlap[hits] = _overlap(found, target)
    offset = (found[:, :2] + found[:, 2:] / 2) - (target[:, :2] + target[:, 2:] / 2)
    distance[hits] = np.sqrt((offset**2).sum(-1))
    normalized[hits] = np.sqrt(((offset / target[:, 2:]) ** 2).sum(-1))
    return FrameErrors(overlap, distance, normalized, valid)


def curves(errors: FrameErrors, protocol: Protocol) -> Curves:
    """Success, precision and normalised precision of one sequence, by threshold.

    Raises:
        ValueError: `valid-frames`, and there is none.

    """
    overlap, distance, normalized, valid = errors
    if protocol == "valid-frames":
        if not valid.any():
            raise ValueError("valid-frames: the target is in sight in no frame")
        overlap, distance, normalized = overlap[valid], distance[valid], normalized[valid]
    return Curves(
        (overlap[:, None] > SUCCESS_THRESHOLDS).mean(0),
        (distance[:, None] <= PRECISION_THRESHOLDS).mean(0),
        (normalized[:, None] <= NORMALIZED_THRESHOLDS).mean(0),
    )


def mean_curves(of_sequences: Sequence[Curves]) -> Curves:
    """Mean over sequences, each counting the same, however long it is.

    Raises:
        ValueError: there is none.

    """
    if not of_sequences:
        raise ValueError("expected the curves of one sequence or more")
    return Curves(*(np.mean(values, axis=0) for values in zip(*of_sequences, strict=True)))


def scores(of: Curves) -> Scores:
    """The figures of tables, read from the curves of a sequence or of a benchmark."""
    success, precision, normalized = of
    return Scores(
        auc=float(success.mean()),
        op50=float(success[_OP50]),
        op75=float(success[_OP75]),
        precision=float(precision[_PIXELS]),
        normalized_precision=float(normalized[_SIDES]),
    )


def got10k_overlaps(tracked: Boxes, truth: Boxes, counted: NDArray[np.bool_], width: int, height: int) -> Floats:
    """Overlaps of one sequence as GOT-10k counts them: not the first frame, and not those where nothing is seen.

    Boxes are clipped as its toolkit does: x and y into the image, then width and height to end inside it. A box that
    begins left of the image so keeps its width.

    Args:
        tracked: (N, 4).
        truth: (N, 4).
        counted: (N,) where `cover.label` is above 0.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        (M,) in [0, 1], M at most N - 1; 0 where the tracked box is not finite.

    Raises:
        ValueError: arrays of other shapes.

    """
    tracked, truth = _checked(tracked, truth)
    if counted.shape != truth.shape[:1]:
        raise ValueError(f"counted: expected shape {truth.shape[:1]}, got {counted.shape}")
    tracked, truth = _inside(tracked[1:][counted[1:]], width, height), _inside(truth[1:][counted[1:]], width, height)
    hits = np.isfinite(tracked).all(-1) & np.isfinite(truth).all(-1)
    overlaps = np.zeros(len(truth))
    overlaps[hits] = _overlap(tracked[hits], truth[hits])
    return overlaps


def got10k_scores(overlaps: Sequence[Floats]) -> Got10kScores:
    """AO and SR over the frames of all sequences together, so that long sequences count for more.

    Args:
        overlaps: of each sequence, as of `got10k_overlaps`.

    Raises:
        ValueError: no frame is counted.

    """
    pooled = np.concatenate([np.empty(0), *overlaps])
    if not len(pooled):
        raise ValueError("GOT-10k: no frame is counted")
    return Got10kScores(float(pooled.mean()), float((pooled > 0.5).mean()), float((pooled > 0.75).mean()))


def _checked(tracked: Boxes, truth: Boxes) -> tuple[Boxes, Boxes]:
    """Copies in float64."""
    tracked, truth = np.array(tracked, dtype=np.float64), np.array(truth, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != 4 or not len(truth):
        raise ValueError(f"truth: expected shape (N, 4), N at least 1, got {truth.shape}")
    if tracked.shape != truth.shape:
        raise ValueError(f"tracked: expected shape {truth.shape}, as the truth has, got {tracked.shape}")
    return tracked, truth


def _overlap(tracked: Boxes, truth: Boxes) -> Floats:
    # Rounding takes the overlap of two equal boxes above 1, and nothing may succeed at the threshold 1.
    return np.minimum(iou(tracked, truth), 1)


def _has_area(boxes: Boxes) -> NDArray[np.bool_]:
    return np.all(np.isfinite(boxes), axis=-1) & np.all(boxes[:, 2:] > 0, axis=-1)


def _inside(boxes: Boxes, width: int, height: int) -> Boxes:
    limit = np.array([width, height], dtype=np.float64)
    low = np.clip(boxes[:, :2], 0, limit)
    return np.concatenate([low, np.clip(boxes[:, 2:], 0, limit - low)], axis=-1)
