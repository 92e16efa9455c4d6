"""Faults that a user can mend. The command line tells each in one line, without a trace of where it was found."""


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
