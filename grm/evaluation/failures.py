"""Where a tracker loses its target, and to what.

A target is lost at the first of five frames in a row, of those in which it is in sight, with an overlap below 0.1.
Before that it was last held in a frame with an overlap above 0.5, or given. Of what kind a loss is, is decided in this
order:

- `occlusion`: between the two there is a frame in which the target is not in sight, be it covered or out of view;
- `size`: at the loss more than half of the smaller box, tracked or true, lies in the other: the box is in the right
  place, and far too large or too small;
- `look-alike`: the tracker is sure of something else. Where the boxes of other objects are known, as in synthetic
  video: the tracked box overlaps one by more than 0.3 in one of the five frames. Where they are not: the median of its
  scores over these frames is not below the score that 95% of the held frames of the run reach;
- `drift`: anything else, or results without scores.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..boxes import Boxes, iou
from ..data import VideoSequence
from ..data.synthetic import SyntheticSequence
from ..errors import DataError
from .benchmarks import Benchmark
from .metrics import frame_errors
from .presence import HELD_OVERLAP
from .report import is_restarted, tracked_sequences
from .results import Results
from .scoring import Truth, held_frames, read_truth

FailureKind = Literal["look-alike", "occlusion", "size", "drift"]
#: A target is lost at the first of so many frames in a row whose overlap is below this.
LOST_FRAMES, LOST_OVERLAP = 5, 0.1
# A tracked box is on another object from this overlap on.
_ON = 0.3
# A tracker is sure from the score on that all but this share of the held frames reach.
_SURE = 0.05
# A box lies in another where this share of it does.
_INSIDE = 0.5


class Failure(NamedTuple):
    """One loss of a target. Frames are counted from 0."""

    #: The number of the sequence in its benchmark, and its name.
    number: int
    sequence: str
    #: The last frame in which the target was held, the one in which it is lost, and the last of the five.
    before: int
    at: int
    after: int
    kind: FailureKind
    #: The median of the scores over the five frames; NaN of results without.
    score: float
    #: The frame in which it is held again; None: in none.
    found_again: int | None


def lost_at(overlap: NDArray[np.float64]) -> int | None:
    """The place in overlaps (N,) at which the target is lost, if it is. Those that are NaN do not count."""
    lost = _low_rows(overlap)
    return int(lost[0, 0]) if len(lost) else None


def _low_rows(overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    """(rows, LOST_FRAMES) frames: every so many in a row that are low, of those that count, by the first of them."""
    known = np.flatnonzero(np.isfinite(overlap))
    if len(known) < LOST_FRAMES:
        return np.empty((0, LOST_FRAMES), dtype=np.int64)
    low = sliding_window_view(overlap[known] < LOST_OVERLAP, LOST_FRAMES).all(axis=1)
    return sliding_window_view(known, LOST_FRAMES)[low]


def find_failures(
    number: int,
    truth: Truth,
    boxes: Boxes,
    scores: NDArray[np.float64] | None = None,
    *,
    sure: float | None = None,
    others: Boxes | None = None,
) -> list[Failure]:
    """The losses of the target of one sequence; after each, a next one may come once the target is held again.

    Args:
        number: of the sequence.
        truth: of its N frames.
        boxes: (N, 4) tracked.
        scores: (N,) of the tracker; None: it gave none.
        sure: the score from which on the tracker counts as sure; None: that is not known.
        others: (M, N, 4) boxes of other objects; None: they are not known.

    """
    errors = frame_errors(boxes, truth.boxes, truth.visible)
    overlap = np.where(errors.valid, errors.overlap, np.nan)
    overlap[0] = np.nan  # the first box was given
    lows, held = _low_rows(overlap), np.flatnonzero(overlap > HELD_OVERLAP)
    found, row = [], 0
    while row < len(lows):
        lost = lows[row]
        at, after = int(lost[0]), int(lost[-1])
        earlier, later = held[: np.searchsorted(held, at)], held[np.searchsorted(held, after) :]
        before = int(earlier[-1]) if len(earlier) else 0
        score = float("nan") if scores is None else float(np.median(scores[lost]))
        found.append(
            Failure(
                number,
                truth.name,
                before,
                at,
                after,
                _kind(errors.valid[before : at + 1], boxes, truth.boxes, lost, score, sure, others),
                score,
                int(later[0]) if len(later) else None,
            )
        )
        row = int(np.searchsorted(lows[:, 0], later[0])) if len(later) else len(lows)
    return found


def _kind(
    in_sight: NDArray[np.bool_],
    boxes: Boxes,
    true: Boxes,
    lost: NDArray[np.int64],
    score: float,
    sure: float | None,
    others: Boxes | None,
) -> FailureKind:
    if not in_sight.all():
        return "occlusion"
    if _shared(boxes[lost[0]], true[lost[0]]) > _INSIDE:
        return "size"
    if others is not None:
        on_another = bool((iou(others[:, lost], boxes[lost]) > _ON).any())
    else:
        on_another = sure is not None and score >= sure
    return "look-alike" if on_another else "drift"


def _shared(one: Boxes, other: Boxes) -> float:
    """The share of the smaller of two boxes (4,) that lies in the other."""
    sides = np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - np.maximum(one[:2], other[:2])
    smaller = min(one[2:].prod(), other[2:].prod())
    return float(np.maximum(sides, 0).prod() / smaller) if smaller > 0 else 0.0


def list_failures(
    benchmark: Benchmark,
    results: Results,
    sequences: Sequence[VideoSequence],
    advance: Callable[[], object] = lambda: None,
    leave_out: Callable[[str], object] = lambda _: None,
) -> Iterator[Failure]:
    """The losses in all sequences that there are results of; of several repetitions those in the first.

    Args:
        benchmark: that the results are of.
        results: of a run in one pass.
        sequences: of the benchmark.
        advance: called for each sequence, twice.
        leave_out: told of each sequence that cannot be read, or whose results cannot.

    Raises:
        DataError: the truth is not public, or the run had restarts.

    """
    if not benchmark.truth:
        raise DataError(f"{benchmark.title}: its truth is not public: nobody can see where a target is lost")
    if is_restarted(results):
        raise DataError(f"{results.folder}: was run with restarts: expected one pass")
    known: list[tuple[int, str]] = []
    held: list[NDArray[np.float64]] = []
    for one in tracked_sequences(benchmark, results, sequences, advance, leave_out):
        known.append((one.number, one.name))
        if one.scores is not None:
            held.append(one.scores[held_frames(one.boxes, one.truth) & np.isfinite(one.scores)])
    of_held = np.concatenate([np.empty(0), *held])
    sure = float(np.quantile(of_held, _SURE, method="lower")) if len(of_held) else None
    for number, name in known:
        sequence = sequences[number]
        truth = read_truth(benchmark, sequence)
        boxes, scores = results.first_boxes(name, truth.boxes), results.scores(name, len(truth.boxes))
        others = sequence.other_boxes if isinstance(sequence, SyntheticSequence) else None
        yield from find_failures(number, truth, boxes, scores, sure=sure, others=others)
        advance()


def varied(failures: Sequence[Failure], most: int) -> list[Failure]:
    """At most so many of them, as many of each kind as there are, the first ones, in their order."""
    kinds: dict[str, int] = {}
    rounds = []
    for place, failure in enumerate(failures):
        rounds.append((kinds.get(failure.kind, 0), place))
        kinds[failure.kind] = kinds.get(failure.kind, 0) + 1
    chosen = sorted(place for _, place in sorted(rounds)[:most])
    return [failures[place] for place in chosen]
