"""What the score of some weights means, measured on results of theirs, and kept with them."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..data import VideoSequence
from ..errors import DataError
from ..model import GRM
from ..tracking.certainty import running_means
from .benchmarks import find_benchmark
from .identity import weights_hash
from .presence import Presence, presence
from .report import Entry, tracked_sequences
from .scoring import held_frames


def measure_bounds(
    model: GRM,
    runs: Iterable[tuple[Entry, Sequence[VideoSequence]]],
    leave_out: Callable[[str], object] = lambda _: None,
) -> Presence:
    """How well the running mean of a model's scores tells frames with its target held, over all of several runs.

    Args:
        model: with the weights that the runs were made with.
        runs: of grm evaluate, each with the sequences of its benchmark; those without results are left out.
        leave_out: told of each sequence that cannot be read, or whose results cannot.

    Raises:
        DataError: results of other weights, of another tool, of a benchmark without public truth, or with frames of one
            kind only.

    """
    expected = weights_hash(model)
    scores: list[NDArray[np.float64]] = []
    held: list[NDArray[np.bool_]] = []
    for entry, sequences in runs:
        results, benchmark = entry.results, find_benchmark(entry.benchmark)
        if not benchmark.truth:
            raise DataError(f"{results.folder}: {benchmark.title}: its truth is not public: nobody knows what is held")
        if results.run is None or results.run["identity"].get("weights") != expected:
            raise DataError(f"{results.folder}: expected results of grm evaluate with these weights")
        for one in tracked_sequences(benchmark, results, sequences, leave_out=leave_out):
            if one.scores is not None:
                scores.append(running_means(one.scores))
                held.append(held_frames(one.boxes, one.truth))
    found = presence(scores, held)
    if found is None:
        raise DataError("the target is held in all of the frames, or in none: there are no bounds between the two")
    return found
