"""Whether targets are held or lost, by their scores and the bounds that were measured for the weights."""

import numpy as np
from numpy.typing import NDArray

from ..config import CertaintyConfig

#: What a score says of its target.
HELD, UNCERTAIN, LOST = "held", "uncertain", "lost"


def states_of(scores: NDArray[np.floating], bounds: CertaintyConfig) -> NDArray[np.str_]:
    """What scores mean: lost below the lower bound, held from the upper one on, uncertain in between.

    Args:
        scores: (M,) of M targets.
        bounds: of the weights, see `grm.config.CertaintyConfig`.

    Returns:
        (M,) "held", "uncertain" or "lost"; "" where nothing was measured for the weights.

    """
    if bounds.lost_below is None or bounds.held_from is None:
        return np.full(scores.shape, "")
    return np.where(scores < bounds.lost_below, LOST, np.where(scores >= bounds.held_from, HELD, UNCERTAIN))
