"""Sequences shared among processes, each with one tracker that is made once; results are written as they come."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast

import numpy as np

from ..data import VideoSequence
from ..errors import DataError, GrmError
from .passes import Advance, Outcome, Protocol, failed, mean_overlap_of, track_all
from .results import Results, RunFolder, check_name
from .runner import FrameTracker, one_pass

#: Makes a tracker in the process that uses it, given the number of that process, from 0 on. It can be pickled.
TrackerFactory = Callable[[int], FrameTracker]
# `track_all` of a run, given a tracker and the numbers of sequences; can be pickled.
_TrackAll = Callable[..., Iterator[tuple[int, Outcome]]]


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
    for number in range(len(sequences)):
        name, own = f"sequence {number + 1}", number % part.parts == part.rank
        try:
            sequence = sequences[number]
            name = sequence.name
            length, finished = (len(sequence), run.is_finished(sequence)) if own else (0, False)
        except (GrmError, OSError) as error:
            known += [failed(name, error)] if own else []
            continue
        check_name(name)
        if name in names:
            raise DataError(f"two sequences are called {name!r}")
        names.add(name)
        if not own:
            continue
        if finished:
            results = results or Results(run.folder)
            known.append(Outcome(name, length, 0.0, mean_overlap_of(results.boxes(name)[0], sequence)))
        else:
            lengths[number] = length
    return Plan(known, sorted(lengths, key=lambda number: -lengths[number]), sum(lengths.values()))


def run_sequences(
    sequences: Sequence[VideoSequence],
    left: Iterable[int],
    run: RunFolder,
    make_tracker: TrackerFactory,
    *,
    protocol: Protocol = one_pass,
    batch: int = 1,
    processes: int = 1,
    advance: Advance = lambda frames: None,
) -> Iterator[Outcome]:
    """Tracks sequences and writes their results. One that fails is told of, and the others go on.

    Args:
        sequences: of the benchmark; can be pickled if there are several processes.
        left: numbers of those to track, as of `plan_run`.
        run: where the results go.
        make_tracker: called once in each process.
        protocol: how a sequence is tracked: `one_pass` or `grm.evaluation.restarts.with_restarts`; can be pickled.
        batch: so many sequences at once in each process, see `grm.evaluation.passes.track_all`.
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
    track = partial(track_all, sequences=sequences, run=run, protocol=protocol, batch=batch)
    if processes == 1 or len(left) == 1:
        yield from (outcome for _, outcome in track(make_tracker(0), numbers=left, advance=advance))
        return
    with closing(_Workers(sequences, make_tracker, track, min(processes, len(left)))) as workers:
        yield from workers.work_off(left, advance)


class _Workers:
    """Processes that are handed sequences as they ask for them, each through a pipe of its own."""

    def __init__(
        self, sequences: Sequence[VideoSequence], make_tracker: TrackerFactory, track: _TrackAll, count: int
    ) -> None:
        self._sequences = sequences
        # Not forked: threads and CUDA do not survive it.
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}
        #: The numbers of the sequences that each process is at.
        self._at: dict[Connection, set[int]] = {}
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, number, make_tracker, track), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours], self._at[ours] = process, set()

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
                    number, outcome = message
                    self._at[pipe].discard(number)
                    yield outcome
                    continue
                handed = queue.pop() if queue else None
                if handed is not None:
                    self._at[pipe].add(handed)
                try:
                    pipe.send(handed)
                except BrokenPipeError:
                    continue  # it died: reading from it says so next
        for number in reversed(queue):
            yield self._untracked(number, "not tracked: no process is left")

    def _bury(self, pipe: Connection) -> Iterator[Outcome]:
        process, at = self._processes.pop(pipe), self._at.pop(pipe)
        process.join()
        for number in sorted(at):
            yield self._untracked(number, f"its process ended with status {process.exitcode}")

    def _untracked(self, number: int, fault: str) -> Outcome:
        return Outcome(self._sequences[number].name, 0, 0.0, np.nan, fault)

    def close(self) -> None:
        """Ends the processes. The next run tracks again what they were at."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()


def _work(pipe: Connection, number: int, make_tracker: TrackerFactory, track: _TrackAll) -> None:
    """A process: says None when it wants a sequence, and how each went with its number; ends when handed None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        tracker = make_tracker(number)
    except (GrmError, OSError) as error:
        pipe.send(error)
        return
    for ended in track(tracker, numbers=_handed(pipe), advance=pipe.send):
        pipe.send(ended)


def _handed(pipe: Connection) -> Iterator[int]:
    pipe.send(None)
    while (at := pipe.recv()) is not None:
        yield at
        pipe.send(None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
