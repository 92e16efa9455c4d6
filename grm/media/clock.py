"""Which number a frame has where damage has taken others away."""

from fractions import Fraction

# Intervals between frames that a video of a steady rate keeps to, in units of one.
_TOLERANCE = 0.1
# After so many steady ones, a gap before a key frame is taken for lost frames without any other sign of damage.
_STEADY = 8
# No hole is taken to be so long; rather a time is broken.
_LONGEST = 100_000


class FrameClock:
    """Numbers the frames of a video by their times, so that those after a damaged part keep theirs.

    Where the rate is steady, a gap between two frames is lost frames if there is a sign of damage: something was not
    decoded, a frame was marked as corrupt, or the gap ends at a key frame, as where a file goes on after a hole (in a
    video that has other frames too). Where the rate varies, each part that was not decoded is one frame.

    Args:
        rate: frames per second that the file claims.

    """

    def __init__(self, rate: Fraction):
        self._rate = float(rate)
        self._number = -1
        self._time: float | None = None
        self._steady, self._intervals, self._all_keys = True, 0, True
        self._missed = self._missed_since = self._corrupt = self._lost = 0

    def missed(self, count: int = 1) -> None:
        """Notes that so many packets could not be read or decoded."""
        self._missed += count
        self._missed_since += count

    def corrupt(self) -> None:
        """Notes that a packet or a frame is not as it was."""
        self._corrupt += 1

    def number(self, time: float | None, *, key: bool, corrupt: bool) -> int | None:
        """The number of the next frame that was decoded; None if it comes too late, as may be where others are lost.

        Args:
            time: in seconds; None where the file has none.
            key: whether it needs no other frame.
            corrupt: whether the decoder says that it is damaged.

        """
        if corrupt:
            self.corrupt()
        lost = self._missed_since
        if self._time is not None and time is not None:
            intervals = (time - self._time) * self._rate
            whole = round(intervals)
            signs = self._missed or self._corrupt
            if signs and self._steady and whole < 1:
                return None
            self._steady &= 1 <= whole < _LONGEST and abs(intervals - whole) < _TOLERANCE * max(1, whole)
            signs = signs or (key and not self._all_keys and self._intervals >= _STEADY)
            if self._steady:
                lost = whole - 1 if signs else 0
            self._intervals += 1
        self._all_keys &= key
        self._lost += lost
        self._number += 1 + lost
        self._time, self._missed_since = time, 0
        return self._number

    def faults(self) -> list[str]:
        """What is wrong with the video, a few words each."""
        counts = {
            "frames lost": self._lost + self._missed_since,
            "damaged": self._corrupt,
        }
        return [f"{count} {what}" for what, count in counts.items() if count]
