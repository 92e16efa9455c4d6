"""Synthetic video, with the boxes of what is drawn, rendered on the fly. Needs nothing but installed packages."""

from ...config import SyntheticConfig
from .video import HELD_OUT, SyntheticSequence, synthetic_sequence, synthetic_sequences

__all__ = ["HELD_OUT", "SyntheticConfig", "SyntheticSequence", "synthetic_sequence", "synthetic_sequences"]
