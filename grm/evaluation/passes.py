"""Sequences on their way through a tracker, or several at once through trackers that share a network."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..crop import Image
from ..data import VideoSequence
from ..errors import GrmError
from ..tracking import Tracker, track_together
from .results import RunFolder
from .runner import FrameTracker, Look, Pass, Seen, look_once, overlaps

#: The protocol that a sequence is tracked by: `one_pass` or `grm.evaluation.restarts.with_restarts`.
Protocol = Callable[[VideoSequence], Pass]
#: Told of so many frames more that were read.
Advance = Callable[[int], object]
# Seconds between two such messages of a sequence.
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


def track_all(
    tracker: FrameTracker,
    sequences: Sequence[VideoSequence],
    numbers: Iterable[int],
    run: RunFolder,
    protocol: Protocol,
    *,
    batch: int = 1,
    advance: Advance,
) -> Iterator[tuple[int, Outcome]]:
    """Tracks sequences and writes their results. One that fails is told of, and the others go on.

    Args:
        tracker: a `grm.tracking.Tracker` if the batch has several sequences.
        sequences: of the benchmark.
        numbers: of those to track; asked for the next one when there is a place for it.
        run: where the results go.
        protocol: that they are tracked by.
        batch: so many sequences are tracked at once, a frame of each in one run of the network. When one ends, the next
            takes its place.
        advance: told of frames that were read.

    Yields:
        number and outcome of each, in the order in which they end.

    """
    trackers = [tracker]
    if batch > 1:
        assert isinstance(tracker, Tracker)
        trackers += [Tracker(tracker.network, mapping=tracker.mapping) for _ in range(batch - 1)]
    left = iter(numbers)
    going: dict[int, _Going] = {}
    while True:
        for place in range(batch):
            while place not in going and (number := next(left, None)) is not None:
                one = _Going(sequences, number, run, protocol, advance)
                if one.outcome is None:
                    going[place] = one
                else:
                    yield number, one.outcome
        if not going:
            return
        looks = [(trackers[place], one.look) for place, one in going.items()]
        for (place, one), seen in zip(list(going.items()), _look(looks), strict=True):
            one.go_on(seen)
            if one.outcome is not None:
                del going[place]
                yield one.number, one.outcome


def failed(name: str, error: Exception) -> Outcome:
    """The outcome of a sequence that something is wrong with."""
    text = (str(error).splitlines() or [""])[0]
    fault = text if isinstance(error, GrmError | OSError) else f"{type(error).__name__}: {text}"
    return Outcome(name, 0, 0.0, np.nan, fault)


def mean_overlap_of(boxes: Boxes, sequence: VideoSequence) -> float:
    """Mean IoU of boxes (N, 4) in the frames after the first that have a true box; NaN where none has."""
    values = overlaps(boxes, sequence)[1:]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan


class _Going:
    """A sequence on its way. Whatever is wrong with it is its outcome, and no other's."""

    #: What it asks for next.
    look: Look

    def __init__(
        self, sequences: Sequence[VideoSequence], number: int, run: RunFolder, protocol: Protocol, advance: Advance
    ) -> None:
        self.number = number
        #: How it went, once it has ended.
        self.outcome: Outcome | None = None
        self._name, self._run = f"sequence {number + 1}", run
        try:
            self._sequence = sequences[number]
            self._name = self._sequence.name
            self._watched = _Watched(self._sequence, advance)
            self._pass = protocol(self._watched)
            self.look = next(self._pass)
        except Exception as error:
            self.outcome = failed(self._name, error)

    def go_on(self, seen: Seen | Exception) -> None:
        """Takes what came of the last look."""
        try:
            if isinstance(seen, Exception):
                raise seen
            self.look = self._pass.send(seen)
        except StopIteration as end:
            self.outcome = self._end(end)
        except Exception as error:
            self.outcome = failed(self._name, error)

    def _end(self, end: StopIteration) -> Outcome:
        try:
            trajectory = end.value
            self._watched.tell()
            self._run.write(self._sequence, trajectory)
            seconds = float(trajectory.tracked_seconds.sum())
            overlap = mean_overlap_of(trajectory.boxes, self._sequence)
            return Outcome(self._name, len(self._sequence), seconds, overlap)
        except Exception as error:
            return failed(self._name, error)


def _look(looks: Sequence[tuple[FrameTracker, Look]]) -> list[Seen | Exception]:
    """What each tracker makes of its frame: those that are shown a target one by one, all others at once."""
    found: dict[int, Seen | Exception] = {}
    together: dict[int, tuple[Tracker, Image]] = {}
    for number, (tracker, look) in enumerate(looks):
        if len(looks) > 1 and look.box is None and isinstance(tracker, Tracker):
            together[number] = tracker, look.frame
            continue
        try:
            found[number] = look_once(tracker, look)
        except Exception as error:
            found[number] = error
    if together:
        start = time.perf_counter()
        try:
            tracks: Sequence[object] = track_together(*zip(*together.values(), strict=True))
        except Exception as error:  # of the network, and so of all of them
            tracks = [error] * len(together)
        seconds = (time.perf_counter() - start) / len(together)
        for number, track in zip(together, tracks, strict=True):
            found[number] = track if isinstance(track, Exception) else Seen(track, seconds)
    return [found[number] for number in range(len(looks))]


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
