"""A tracker's figures on a benchmark: of each sequence, of all together, and whether two trackers differ."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes, has_box
from ..data import VideoSequence
from ..data.readers.annotations import read_integers
from ..data.readers.got10k import Got10kSequence
from ..errors import DataError
from .benchmarks import Benchmark
from .metrics import (
    SUCCESS_THRESHOLDS,
    Curves,
    Protocol,
    curves,
    frame_errors,
    got10k_overlaps,
    got10k_scores,
    scores,
)
from .presence import HELD_OVERLAP
from .restarts import accuracy_and_failures

#: The figures of each metric, by the names that tables have; the first is what trackers are ranked by.
FIGURES = {
    "success": ("AUC", "P_norm", "P", "OP50", "OP75"),
    "got10k": ("AO", "SR50", "SR75"),
    "restarts": ("accuracy", "failures"),
}
# The 95% quantile, both sides, of Student's t: degrees of freedom and value (of infinitely many, the normal one).
_STUDENT = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 12: 2.179,
    15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980, math.inf: 1.960,
}  # fmt: skip


class Truth(NamedTuple):
    """What the boxes of a sequence are compared with."""

    name: str
    boxes: Boxes
    visible: NDArray[np.bool_]
    #: GOT-10k: (N,) the frames with something of the target in sight, and width and height of the images.
    counted: NDArray[np.bool_] | None = None
    size: tuple[int, int] | None = None


class SequenceScore(NamedTuple):
    """The figures of one tracker on one sequence. A benchmark's are their mean, each with its weight."""

    name: str
    #: 1; of GOT-10k, whose frames are pooled, the number of frames that count; with restarts that of all frames.
    weight: float
    #: By the names of `FIGURES`; in [0, 1], but for the number of failures.
    figures: dict[str, float]
    #: Of GOT-10k the success curve alone, with restarts none.
    success: NDArray[np.float64] | None
    precision: NDArray[np.float64] | None
    normalized: NDArray[np.float64] | None


class BenchmarkScore(NamedTuple):
    """The figures of one tracker on a benchmark."""

    sequences: int
    figures: dict[str, float]
    success: NDArray[np.float64] | None
    precision: NDArray[np.float64] | None
    normalized: NDArray[np.float64] | None


class Difference(NamedTuple):
    """How much a tracker is better than another on the same sequences."""

    #: First minus second, in [-1, 1].
    mean: float
    #: Standard error of it, over the sequences; NaN of a single one.
    error: float
    #: What a difference has to exceed to mean something, at 95% by Student's t; NaN where that is not known.
    margin: float

    @property
    def is_noise(self) -> bool:
        """Whether other sequences of the same kind might well turn it around."""
        return not abs(self.mean) > self.margin


def read_truth(benchmark: Benchmark, sequence: VideoSequence) -> Truth:
    """What the boxes of a sequence are compared with; of GOT-10k its first image is opened.

    Raises:
        DataError: the annotation or the image is missing or broken, or only the first frame has a box.

    """
    truth = Truth(sequence.name, sequence.boxes, sequence.visible)
    if len(truth.boxes) > 1 and not has_box(truth.boxes[1:]).any():
        raise DataError(f"{sequence.name}: only the first frame has a box: there is nothing to compare with")
    if benchmark.metric != "got10k":
        return truth
    counted = sequence.visible
    if isinstance(sequence, Got10kSequence):
        # Its toolkit asks for nothing but the cover.
        counted = read_integers(sequence.folder / "cover.label", len(sequence)) > 0
    height, width = sequence.frame(0).shape[:2]
    return truth._replace(counted=counted, size=(width, height))


def held_frames(boxes: Boxes, truth: Truth) -> NDArray[np.bool_]:
    """(N,) where the target is in sight, and overlapped by more than half by the boxes (N, 4) of one repetition."""
    return frame_errors(boxes, truth.boxes, truth.visible).overlap > HELD_OVERLAP


def score_sequence(truth: Truth, repetitions: Sequence[Boxes], protocol: Protocol) -> SequenceScore:
    """The figures of one tracker on one sequence; of several repetitions their mean.

    Args:
        truth: of `read_truth`.
        repetitions: (N, 4) boxes of each time that the tracker ran; those after the last frame are left out.
        protocol: which frames count; not of GOT-10k, which has its own rule.

    Raises:
        DataError: fewer boxes than frames, or no frame counts.

    """
    count = len(truth.boxes)
    for boxes in repetitions:
        if len(boxes) < count:
            raise DataError(f"{truth.name}: {len(boxes)} boxes for {count} frames")
    tracked = [boxes[:count] for boxes in repetitions]
    if protocol == "restarts":
        in_sight = np.where(truth.visible[:, None], truth.boxes, np.nan)
        runs = np.mean([accuracy_and_failures(boxes, in_sight) for boxes in tracked], axis=0)
        return SequenceScore(truth.name, count, dict(zip(FIGURES["restarts"], runs.tolist(), strict=True)), *[None] * 3)
    if truth.counted is not None and truth.size is not None:
        pooled = [got10k_overlaps(boxes, truth.boxes, truth.counted, *truth.size) for boxes in tracked]
        overlaps = np.concatenate(pooled)
        if not len(overlaps):
            return SequenceScore(truth.name, 0, dict.fromkeys(FIGURES["got10k"], 0.0), np.zeros(21), None, None)
        figures = dict(zip(FIGURES["got10k"], got10k_scores([overlaps]), strict=True))
        success = (overlaps[:, None] > SUCCESS_THRESHOLDS).mean(0)
        return SequenceScore(truth.name, len(overlaps), figures, success, None, None)
    try:
        each = [curves(frame_errors(boxes, truth.boxes, truth.visible), protocol) for boxes in tracked]
    except ValueError as error:
        raise DataError(f"{truth.name}: {error}") from None
    mean = Curves(*(np.mean(values, axis=0) for values in zip(*each, strict=True)))
    return SequenceScore(truth.name, 1, _success_figures(mean), *mean)


def score_benchmark(of_sequences: Iterable[SequenceScore]) -> BenchmarkScore:
    """The figures of a tracker on a benchmark: the weighted mean over its sequences.

    Raises:
        DataError: there is no sequence, or none that counts.

    """
    each = list(of_sequences)
    weights = np.array([score.weight for score in each], dtype=np.float64)
    if not weights.sum():
        raise DataError("no sequence counts")

    def mean(values: list[Any]) -> Any:
        return None if values[0] is None else np.average(values, axis=0, weights=weights)

    figures = {name: float(mean([score.figures[name] for score in each])) for name in each[0].figures}
    curve = {name: mean([getattr(score, name) for score in each]) for name in ("success", "precision", "normalized")}
    return BenchmarkScore(len(each), figures, **curve)


def difference(first: Sequence[SequenceScore], second: Sequence[SequenceScore], figure: str) -> Difference:
    """How much the first tracker is better than the second, with the paired standard error over sequences.

    The sequences are the same, in the same order; what makes one hard for both cancels. With weights w and differences
    d, the error is sqrt(n / (n - 1) sum (w (d - mean))^2) / sum w, the usual one if the weights are equal.

    Args:
        first: of each sequence.
        second: of the same sequences.
        figure: name of a figure.

    Raises:
        ValueError: other sequences.

    """
    if [score.name for score in first] != [score.name for score in second]:
        raise ValueError("expected scores of the same sequences in the same order")
    weights = np.array([score.weight for score in first], dtype=np.float64)
    differences = np.array([a.figures[figure] - b.figures[figure] for a, b in zip(first, second, strict=True)])
    mean = float(np.average(differences, weights=weights))
    count = len(first)
    if count < 2:
        return Difference(mean, math.nan, math.nan)
    spread = ((weights * (differences - mean)) ** 2).sum() * count / (count - 1)
    error = float(np.sqrt(spread) / weights.sum())
    return Difference(mean, error, student(count - 1) * error)


def student(freedom: float = math.inf) -> float:
    """So many standard errors a mean has to be from 0, to differ from it at 95%: Student's t, to 0.2%.

    Args:
        freedom: degrees of freedom, at least 1: one less than there are values.

    """
    known = sorted((1 / degrees, value) for degrees, value in _STUDENT.items())
    return float(np.interp(1 / freedom, [place for place, _ in known], [value for _, value in known]))


def _success_figures(of: Curves) -> dict[str, float]:
    read = scores(of)
    values = (read.auc, read.normalized_precision, read.precision, read.op50, read.op75)
    return dict(zip(FIGURES["success"], values, strict=True))
