"""Data: sequences of videos with boxes, the readers of data sets, training pairs, and synthetic video."""

from ..errors import DataError
from .datasets import check_paths, held_out_sequences, open_datasets, rendering
from .pairs import PairDataset, training_pairs
from .sample import Sample
from .sequence import Sequences, VideoSequence
from .synthetic import synthetic_sequence

__all__ = [
    "DataError",
    "PairDataset",
    "Sample",
    "Sequences",
    "VideoSequence",
    "check_paths",
    "held_out_sequences",
    "open_datasets",
    "rendering",
    "synthetic_sequence",
    "training_pairs",
]
