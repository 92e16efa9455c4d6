"""The error of everything that is read from a data set."""


class DataError(ValueError):
    """A data set, annotation or image that cannot be used; the message names its path."""
