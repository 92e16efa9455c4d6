"""Data: sequences of videos with boxes, the readers of data sets, training pairs, and synthetic video."""

from .datasets import open_datasets
from .errors import DataError
from .sequence import Sequence, Sequences

__all__ = ["DataError", "Sequence", "Sequences", "open_datasets"]
