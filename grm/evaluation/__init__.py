"""Evaluation of trackers: how well, and how fast."""
