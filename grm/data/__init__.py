"""Data: sequences of videos with boxes, the readers of data sets, training pairs, and synthetic video."""

from .datasets import open_datasets
from .errors import DataError
from .pairs import PairDataset, training_pairs
from .sample import Sample
from .sequence import Sequence, Sequences

__all__ = ["DataError", "PairDataset", "Sample", "Sequence", "Sequences", "open_datasets", "training_pairs"]
