"""Tracking: `Tracker`, what it says of a frame (`Track`), and the network that it asks (`TrackingNetwork`)."""

from .network import Located, Network, TrackingNetwork
from .together import track_together
from .tracker import Track, Tracker

__all__ = ["Located", "Network", "Track", "Tracker", "TrackingNetwork", "track_together"]
