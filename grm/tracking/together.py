"""Targets of several videos, found by one run of the network."""

from collections.abc import Sequence

import numpy as np
import torch

from ..crop import CropRegion, Image
from .network import Located
from .tracker import Track, Tracker, search_crops


def track_together(trackers: Sequence[Tracker], frames: Sequence[Image]) -> list[Track | Exception]:
    """What `Tracker.track` gives of several trackers, each in a frame of its own: their network runs once for all.

    Args:
        trackers: of one `TrackingNetwork`, all of which have a target.
        frames: (height, width, 3) uint8, RGB, of any sizes.

    Returns:
        of each tracker what it found, or what is wrong with its frame, or with what the network makes of it.

    """
    found: dict[int, Track | Exception] = {}
    regions: dict[int, list[CropRegion]] = {}
    for number, (tracker, frame) in enumerate(zip(trackers, frames, strict=True)):
        try:
            regions[number] = tracker.search_regions(frame)
        except Exception as error:  # of one video, and the others go on
            found[number] = error
    if regions:
        network = trackers[0].network
        crops = search_crops(network, [(frames[number], of_one) for number, of_one in regions.items()])
        located = network(torch.cat([trackers[number].template for number in regions]), crops)
        ends = np.cumsum([len(of_one) for of_one in regions.values()])
        for (number, of_one), end in zip(regions.items(), ends, strict=True):
            try:
                own = slice(end - len(of_one), end)
                part = Located(located.boxes[own], located.scores[own], located.divisions[own])
                found[number] = trackers[number].accept(frames[number], of_one, part)
            except Exception as error:
                found[number] = error
    return [found[number] for number in range(len(trackers))]
