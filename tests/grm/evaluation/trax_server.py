"""A tracker behind TraX, to be started as a process of its own."""

from grm.evaluation.engines import serve_trax
from grm.tracking import Tracker

from ..tracking.scenes import brightness_model

if __name__ == "__main__":
    serve_trax(Tracker(brightness_model()), "brightness")
