"""Data: sequences of videos with boxes, the readers of data sets, training pairs, and synthetic video."""

from .datasets import check_paths, held_out_sequences, open_datasets
from .errors import DataError
from .pairs import PairDataset, training_pairs
from .sample import Sample
from .sequence import Sequence, Sequences
from .synthetic import synthetic_sequence

__all__ = [
    "DataError",
    "PairDataset",
    "Sample",
    "Sequence",
    "Sequences",
    "check_paths",
    "held_out_sequences",
    "open_datasets",
    "synthetic_sequence",
    "training_pairs",
]
