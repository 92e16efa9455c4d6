"""Standard output and error whose reader may go away: a terminal that is closed, a pipe that nobody reads any more."""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# What the system says of a pipe without a reader, and of a terminal that is gone.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


class _Stream(io.FileIO):
    """A standard stream. What cannot be said to anybody ends no work: it is dropped.

    Args:
        descriptor: of the stream.
        shown: what an error calls it that has another reason; None: there is none, this too is dropped.

    """

    def __init__(self, descriptor: int, shown: str | None):
        super().__init__(descriptor, "w", closefd=False)
        self._shown = shown
        self._broken = False

    def write(self, data: Any, /) -> int:
        """Writes bytes, or drops them; the number of bytes in `data` where all were dropped."""
        if not self._broken:
            try:
                return super().write(data) or 0
            except OSError as error:
                self._broken = True
                if self._shown and error.errno not in _NOBODY_READS:
                    raise OSError(error.errno, error.strerror, self._shown) from None
        return memoryview(data).nbytes


@contextmanager
def without_readers() -> Iterator[None]:
    """Has the block go on, in silence, when nobody reads any longer what it prints.

    Raises:
        OSError: standard output, which has results, cannot be written for another reason.

    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _wrapped(sys.stdout, "standard output"), _wrapped(sys.stderr, None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _wrapped(stream: TextIO | None, shown: str | None) -> TextIO | None:
    if stream is None:  # closed from the beginning
        return None
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):  # not the system's
        return stream
    stream.flush()
    buffered = io.BufferedWriter(_Stream(descriptor, shown))
    return io.TextIOWrapper(buffered, stream.encoding, stream.errors, line_buffering=True)
