"""Faults that a user can mend. The command line tells each in one line, without a trace of where it was found."""

import re

# Of a text that came from a file, and of a line of a message, so many characters are shown.
_SHOWN_OF_FILES, _SHOWN_OF_LINES = 200, 2000
# Before the host of an address: rtsp://name:password@camera/1.
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*:[^/\s]*(?=@)")


def shown(value: object) -> str:
    """What a message says of something that a file holds: in one line, clipped, and nothing in it steers a terminal."""
    return printable(clipped(str(value), _SHOWN_OF_FILES).replace("\n", "\\n"))


def printable(text: str) -> str:
    """A text in which all that is neither printed nor a line's end is escaped, with long lines clipped.

    The name and the password in an address are not shown.
    """
    lines = (clipped(line, _SHOWN_OF_LINES) for line in _PASSWORD.sub("***", text).split("\n"))
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)


def clipped(text: str, count: int) -> str:
    """The text, or so many of its characters and a sign that there were more."""
    return text if len(text) <= count else f"{text[:count]}..."


class GrmError(Exception):
    """Anything that is wrong with what `grm` was given; the message has one line for each fault."""


class BoxError(GrmError, ValueError):
    """Boxes that cannot be used; the message says what came."""


class ConfigError(GrmError, ValueError):
    """A configuration, or an argument of the command line, that cannot be used."""


class DataError(GrmError, ValueError):
    """A data set or annotation that cannot be used; the message names its path."""


class MediaError(DataError):
    """A picture or a video that cannot be read or written; the message names the file."""


class DamagedError(MediaError):
    """A video of which something is damaged or missing, said after all that can be read of it."""


class FrameError(GrmError, ValueError):
    """A frame that cannot be tracked in: its shape or size is not one of a frame."""


class WeightsError(GrmError, ValueError):
    """A file of weights that cannot be used."""


class CheckpointError(GrmError, RuntimeError):
    """A checkpoint that cannot be read, or that a run cannot go on from."""


class MismatchError(GrmError, RuntimeError):
    """Two computations that have to agree, and do not."""


class NonFiniteError(GrmError, RuntimeError):
    """A loss, a gradient or a prediction that is not finite."""
