"""Tracking with a GRM model: `Tracker`, and what it says of a frame (`Track`)."""

from .tracker import Track, Tracker

__all__ = ["Track", "Tracker"]
