"""Files for the servers that keep the truth: GOT-10k and TrackingNet, looked at before they are zipped."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..data import VideoSequence
from ..errors import DataError
from ..files import replacing
from .results import Results, table_text

#: The benchmarks that have a server, and what its files are.
SERVERS = ("got10k-test", "trackingnet")
# So many faults are told of.
_TOLD = 10
# So many pixels may the first box be off the given one: some tools write whole numbers.
_SAME = 1.0


def write_submission(benchmark: str, results: Results, sequences: Sequence[VideoSequence], path: Path) -> int:
    """Writes the zip that a server takes, once everything in it was found to be whole.

    GOT-10k: `NAME/NAME_001.txt`, x,y,w,h with three digits, and `NAME/NAME_time.txt`, the seconds of each frame.
    TrackingNet: `NAME.txt`. The first row is the box that was given. Boxes keep their fractions.

    Args:
        benchmark: one of `SERVERS`.
        results: of the tracker.
        sequences: all of the benchmark.
        path: of the zip.

    Returns:
        the number of sequences.

    Raises:
        DataError: not such a benchmark, or results that are missing, of another length, or not finite, a line each.
        OSError: the zip cannot be written.

    """
    if benchmark not in SERVERS:
        raise DataError(f"{benchmark}: has no server of its own; submissions are for {', '.join(SERVERS)}")
    faults: list[str] = []
    files: list[tuple[str, str]] = []
    for sequence in sequences:
        try:
            files += _files(benchmark, results, sequence)
        except DataError as error:
            faults.append(str(error))
    if faults:
        more = [f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else []
        first = f"{results.folder}: cannot be submitted: {len(faults)} of {len(sequences)} sequences are at fault"
        raise DataError("\n".join([first, *faults[:_TOLD], *more]))
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files:
            # The same results give the same file.
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return len(sequences)


def _files(benchmark: str, results: Results, sequence: VideoSequence) -> Iterator[tuple[str, str]]:
    name, count = sequence.name, len(sequence)
    known = results.find(name)
    if known is None:
        raise DataError(f"{name}: no results")
    repetitions = [_checked(name, boxes, sequence) for boxes in results.boxes(known)]
    if benchmark == "trackingnet":
        yield f"{name}.txt", table_text(repetitions[0], "%.3f")
        return
    times = results.times(known)
    if times is None or len(times) != count or not np.isfinite(times).all():
        raise DataError(f"{name}: expected a time for each of {count} frames, got {_told(times)}")
    for number, boxes in enumerate(repetitions, 1):
        yield f"{name}/{name}_{number:03d}.txt", table_text(boxes, "%.3f")
    yield f"{name}/{name}_time.txt", table_text(times, "%.8f")


def _checked(name: str, boxes: Boxes, sequence: VideoSequence) -> Boxes:
    """The boxes, the first of which is exactly the one that was given."""
    if len(boxes) != len(sequence):
        raise DataError(f"{name}: {len(boxes)} lines for {len(sequence)} frames")
    if wrong := np.flatnonzero(~np.isfinite(boxes).all(-1)).tolist():
        raise DataError(f"{name}: line {wrong[0] + 1} is not finite: {boxes[wrong[0]].tolist()}")
    if wrong := np.flatnonzero((boxes[:, 2:] <= 0).any(-1)).tolist():
        raise DataError(f"{name}: line {wrong[0] + 1} has no area: {boxes[wrong[0]].tolist()}")
    given = sequence.boxes[0]
    if np.abs(boxes[0] - given).max() > _SAME:
        raise DataError(f"{name}: line 1 is not the given box {given.tolist()}: {boxes[0].tolist()}")
    return np.concatenate([given[None], boxes[1:]])


def _told(times: NDArray[np.float64] | None) -> str:
    return "none" if times is None else f"{len(times)}, {np.isfinite(times).all(-1).sum()} of them finite"
