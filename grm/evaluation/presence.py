"""What scores, or their running means, are worth: whether they tell frames with the target held from the others."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The target is held in a frame where the overlap is above this.
HELD_OVERLAP = 0.5
# So many of the frames may be on the wrong side of a bound of certainty.
_TAIL = 0.05


class Presence(NamedTuple):
    """How well the score tells held frames from others, over the tracked frames of a benchmark.

    Held: the target is in sight and the overlap above 0.5. Not held: the target is out of sight, or the box elsewhere.
    """

    #: Number of frames of either kind.
    held: int
    other: int
    #: Area under the ROC curve: the probability that a held frame has a higher score than another one; ties count half.
    auc: float
    #: The score with the largest difference between the shares of held and of other frames that reach it (Youden's J).
    threshold: float
    #: Shares of held and of other frames that reach the threshold.
    held_above: float
    other_above: float
    #: Below `low` the target counts as lost: 95% of the held frames reach it. From `high` on it counts as held: 95% of
    #: the others stay below. Between them it is uncertain. Where the two kinds lie so far apart that the bounds cross,
    #: both are the threshold.
    low: float
    high: float


def presence(scores: Sequence[NDArray[np.float64]], held: Sequence[NDArray[np.bool_]]) -> Presence | None:
    """How well scores tell held frames from others.

    Args:
        scores: (N,) of each sequence; frames whose score is NaN, such as the first, are left out.
        held: (N,) likewise: whether the target is in sight and overlapped by more than 0.5.

    Returns:
        None where all frames are of one kind: there is nothing to tell apart.

    """
    values = np.concatenate([np.empty(0), *scores])
    is_held = np.concatenate([np.empty(0, dtype=bool), *held])
    known = np.isfinite(values)
    values, is_held = values[known], is_held[known]
    yes, no = np.sort(values[is_held]), np.sort(values[~is_held])
    if not len(yes) or not len(no):
        return None
    below, reached = np.searchsorted(no, yes, "left"), np.searchsorted(no, yes, "right")
    auc = (below + reached).sum() / 2 / (len(yes) * len(no))
    candidates = np.unique(values)
    held_above = 1 - np.searchsorted(yes, candidates, "left") / len(yes)
    other_above = 1 - np.searchsorted(no, candidates, "left") / len(no)
    best = int((held_above - other_above).argmax())
    threshold = float(candidates[best])
    low = float(np.quantile(yes, _TAIL, method="lower"))
    high = float(np.nextafter(np.quantile(no, 1 - _TAIL, method="higher"), np.inf))
    if low >= high:
        low = high = threshold
    return Presence(
        held=len(yes),
        other=len(no),
        auc=float(auc),
        threshold=threshold,
        held_above=float(held_above[best]),
        other_above=float(other_above[best]),
        low=low,
        high=high,
    )


def presence_text(label: str, found: Presence) -> str:
    """What was found, in one line."""
    return (
        f"running mean of {label}'s score: ROC AUC {found.auc:.3f} ({found.held} frames held, {found.other} not); "
        f"{found.threshold:.2f} or more in {100 * found.held_above:.0f}% of the held and "
        f"{100 * found.other_above:.0f}% of the other frames; lost below {found.low:.2f}, held from {found.high:.2f}"
    )
