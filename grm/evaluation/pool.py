"""Sequences shared among processes, each with one tracker that is made once; results are written as they come."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..crop import Image
from ..data import VideoSequence
from ..errors import DataError, GrmError
from .results import Results, RunFolder, check_name
from .runner import FrameTracker, Trajectory, overlaps, track_sequence

#: Makes a tracker in the process that uses it, given the number of that process, from 0 on. It can be pickled.
TrackerFactory = Callable[[int], FrameTracker]
#: How a sequence is tracked; can be pickled.
Track = Callable[[FrameTracker, VideoSequence], Trajectory]
#: Told of so many frames more that were read.
Advance = Callable[[int], object]
# Seconds between two such messages of a process.
_TOLD_EVERY = 0.5


class Outcome(NamedTuple):
    """How one sequence went."""

    name: str
    frames: int
    #: Seconds that the tracker took; 0 where the results were there already.
    seconds: float
    #: Mean IoU of the frames after the first that have a box; NaN where none has.
    overlap: float
    #: What went wrong, in one line; None: the results are on the disk.
    fault: str | None = None


class Plan(NamedTuple):
    """What a run has done, and what is left to do."""

    #: Sequences that were finished before, and those that cannot be opened.
    known: list[Outcome]
    #: The numbers of those to track, the longest first: no process is left alone with a long one at the end.
    left: list[int]
    #: Frames of the sequences to track.
    frames: int


class Part(NamedTuple):
    """One of several runs that share the sequences of a benchmark, as on several machines; they need not meet."""

    #: From 0 to parts - 1.
    rank: int
    parts: int


#: The only one.
WHOLE = Part(0, 1)


def plan_run(sequences: Sequence[VideoSequence], run: RunFolder, part: Part = WHOLE) -> Plan:
    """Finds out what is left to do.

    Args:
        sequences: of the benchmark.
        run: where results are.
        part: which of the sequences are this process's to track.

    Raises:
        DataError: two sequences have the same name, or one has a name that cannot be that of a file.

    """
    known, lengths, names = [], {}, set()
    results = None
    for number in range(part.rank, len(sequences), part.parts):
        name = f"sequence {number + 1}"
        try:
            sequence = sequences[number]
            name = sequence.name
            length, finished = len(sequence), run.is_finished(sequence)
        except (GrmError, OSError) as error:
            known.append(_failed(name, error))
            continue
        check_name(name)
        if name in names:
            raise DataError(f"two sequences are called {name!r}")
        names.add(name)
        if finished:
            results = results or Results(run.folder)
            known.append(Outcome(name, length, 0.0, _mean_overlap(results.boxes(name)[0], sequence)))
        else:
            lengths[number] = length
    return Plan(known, sorted(lengths, key=lambda number: -lengths[number]), sum(lengths.values()))


def run_sequences(
    sequences: Sequence[VideoSequence],
    left: Iterable[int],
    run: RunFolder,
    make_tracker: TrackerFactory,
    *,
    track: Track = track_sequence,
    processes: int = 1,
    advance: Advance = lambda frames: None,
) -> Iterator[Outcome]:
    """Tracks sequences and writes their results. One that fails is told of, and the others go on.

    Args:
        sequences: of the benchmark; can be pickled if there are several processes.
        left: numbers of those to track, as of `plan_run`.
        run: where the results go.
        make_tracker: called once in each process.
        track: how a sequence is tracked: `track_sequence` or `grm.evaluation.restarts.track_with_restarts`.
        processes: with 1, everything happens in this one.
        advance: called in this process.

    Yields:
        how each sequence went, in the order in which they end.

    Raises:
        GrmError: a process could not make its tracker.

    """
    left = list(left)
    if not left:
        return
    if processes == 1 or len(left) == 1:
        tracker = make_tracker(0)
        for number in left:
            yield _track_one(tracker, track, sequences, number, run, advance)
        return
    with closing(_Workers(sequences, run, make_tracker, track, min(processes, len(left)))) as workers:
        yield from workers.work_off(left, advance)


class _Workers:
    """Processes that are handed one sequence after the other, each through a pipe of its own."""

    def __init__(
        self,
        sequences: Sequence[VideoSequence],
        run: RunFolder,
        make_tracker: TrackerFactory,
        track: Track,
        count: int,
    ) -> None:
        self._sequences = sequences
        # Not forked: threads and CUDA do not survive it.
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}
        #: The number of the sequence that each process is at.
        self._at: dict[Connection, int | None] = {}
        for number in range(count):
            ours, theirs = context.Pipe()
            job = (theirs, number, sequences, run, make_tracker, track)
            process = context.Process(target=_work, args=job, daemon=True)
            process.start()
            theirs.close()
            self._processes[ours], self._at[ours] = process, None

    def work_off(self, left: list[int], advance: Advance) -> Iterator[Outcome]:
        """Hands out sequences until all processes have ended."""
        queue = left[::-1]
        while self._processes:
            for pipe in cast(list[Connection], wait(list(self._processes))):
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._bury(pipe)
                    continue
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, int):
                    advance(message)
                    continue
                if message is not None:
                    yield message
                self._at[pipe] = queue.pop() if queue else None
                try:
                    pipe.send(self._at[pipe])
                except BrokenPipeError:
                    continue  # it died: reading from it says so next
        for number in reversed(queue):
            yield self._untracked(number, "not tracked: no process is left")

    def _bury(self, pipe: Connection) -> Iterator[Outcome]:
        process, at = self._processes.pop(pipe), self._at.pop(pipe)
        process.join()
        if at is not None:
            yield self._untracked(at, f"its process ended with status {process.exitcode}")

    def _untracked(self, number: int, fault: str) -> Outcome:
        return Outcome(self._sequences[number].name, 0, 0.0, np.nan, fault)

    def close(self) -> None:
        """Ends the processes. The next run tracks again what they were at."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()


def _work(
    pipe: Connection,
    number: int,
    sequences: Sequence[VideoSequence],
    run: RunFolder,
    make_tracker: TrackerFactory,
    track: Track,
) -> None:
    """A process: says None when it is ready, then how each sequence went that it is handed; ends when handed None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        tracker = make_tracker(number)
    except (GrmError, OSError) as error:
        pipe.send(error)
        return
    pipe.send(None)
    while (at := pipe.recv()) is not None:
        pipe.send(_track_one(tracker, track, sequences, at, run, pipe.send))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Watched:
    """A sequence that tells how many of its frames are read."""

    def __init__(self, sequence: VideoSequence, advance: Advance) -> None:
        self._sequence, self._advance = sequence, advance
        self._read, self._told_at = 0, time.monotonic()
        self.name = sequence.name

    @property
    def boxes(self) -> Boxes:
        """(N, 4), see `VideoSequence.boxes`."""
        return self._sequence.boxes

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N,), see `VideoSequence.visible`."""
        return self._sequence.visible

    def __len__(self) -> int:
        return len(self._sequence)

    def frame(self, index: int) -> Image:
        """Frame `index`, counted as read."""
        self._read += 1
        if time.monotonic() - self._told_at > _TOLD_EVERY:
            self.tell()
        return self._sequence.frame(index)

    def tell(self) -> None:
        """Tells of the frames that were read since the last time."""
        self._advance(self._read)
        self._read, self._told_at = 0, time.monotonic()


def _track_one(
    tracker: FrameTracker,
    track: Track,
    sequences: Sequence[VideoSequence],
    number: int,
    run: RunFolder,
    advance: Advance,
) -> Outcome:
    name = f"sequence {number + 1}"
    try:
        sequence = sequences[number]
        name = sequence.name
        watched = _Watched(sequence, advance)
        trajectory = track(tracker, watched)
        watched.tell()
        run.write(sequence, trajectory)
        seconds = float(trajectory.seconds[1:].sum())
        return Outcome(name, len(sequence), seconds, _mean_overlap(trajectory.boxes, sequence))
    except Exception as error:  # whatever it is, the other sequences go on
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Outcome:
    text = (str(error).splitlines() or [""])[0]
    fault = text if isinstance(error, GrmError | OSError) else f"{type(error).__name__}: {text}"
    return Outcome(name, 0, 0.0, np.nan, fault)


def _mean_overlap(boxes: Boxes, sequence: VideoSequence) -> float:
    values = overlaps(boxes, sequence)[1:]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan
