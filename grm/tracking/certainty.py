"""Whether targets are held or lost, by the running mean of their scores and the bounds measured for the weights."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import CertaintyConfig

#: What the running mean says of its target.
HELD, UNCERTAIN, LOST = "held", "uncertain", "lost"
#: Weight of a frame's score in the running mean; all before it share the rest likewise.
NEWEST = 0.3


def next_mean(mean: ArrayLike, score: ArrayLike) -> NDArray[np.float64]:
    """The running mean after one more frame: 0.7 mean + 0.3 score, and the score itself where nothing was before.

    Args:
        mean: (...) of the frames before; NaN where there was none since the target was shown.
        score: (...) of this one.

    """
    before, newest = np.asarray(mean, dtype=np.float64), np.asarray(score, dtype=np.float64)
    return np.where(np.isnan(before), newest, before + NEWEST * (newest - before))


def running_means(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """`next_mean` from frame to frame: (N,) of the scores (N,) of a target. A NaN is a frame in which it was shown."""
    means, mean = [], math.nan
    for score in scores.tolist():
        mean = score if math.isnan(mean) else mean + NEWEST * (score - mean)
        means.append(mean)
    return np.array(means, dtype=np.float64)


def states_of(means: NDArray[np.floating], bounds: CertaintyConfig) -> NDArray[np.str_]:
    """What running means of scores say: lost below the lower bound, held from the upper one on, uncertain in between.

    Args:
        means: (M,) of M targets, or frames.
        bounds: of the weights, see `grm.config.CertaintyConfig`.

    Returns:
        (M,) "held", "uncertain" or "lost"; "" where nothing was measured for the weights.

    """
    if bounds.lost_below is None or bounds.held_from is None:
        return np.full(means.shape, "")
    return np.where(means < bounds.lost_below, LOST, np.where(means >= bounds.held_from, HELD, UNCERTAIN))
