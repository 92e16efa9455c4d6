"""Targets of several videos in one run of the network: found as each alone, and wrong frames stay alone."""

import numpy as np
import pytest
import torch

from grm.errors import FrameError, NonFiniteError
from grm.tracking import Track, Tracker, TrackingNetwork, track_together

from ..model.small import small_model
from .scenes import noise_frames

#: Videos of different sizes, and the boxes given in each: one target, two, one.
VIDEOS = [noise_frames(5), noise_frames(5, 60, 150, seed=1), noise_frames(5, 120, 84, seed=2)]
BOXES = [(40, 30, 20, 13), [(80, 20, 12, 25), (-4, -3, 15, 15)], (30, 70, 18, 18)]


def shown(network):
    """A tracker for each video, which has seen its first frame."""
    trackers = [Tracker(network) for _ in VIDEOS]
    for tracker, video, boxes in zip(trackers, VIDEOS, BOXES, strict=True):
        tracker.initialize(video[0], boxes)
    return trackers


@pytest.mark.parametrize("on_device", [False, True])
def test_each_is_tracked_as_if_alone(on_device):
    network = TrackingNetwork(small_model(), crop_on_device=on_device)
    alone, together = shown(network), shown(network)
    for frames in zip(*(video[1:] for video in VIDEOS), strict=True):
        for tracker, frame, found in zip(alone, frames, track_together(together, frames), strict=True):
            expected = tracker.track(frame)
            assert found.box.shape == expected.box.shape and found.state == pytest.approx(expected.state)
            assert found.box == pytest.approx(expected.box, abs=1e-3)
            assert found.score == pytest.approx(expected.score, abs=1e-5)
            assert np.array_equal(found.division, expected.division)


def test_the_network_runs_once():
    network, calls = TrackingNetwork(small_model()), []
    trackers, run = shown(network), network._run
    network._run = lambda template, searches: calls.append(len(searches)) or run(template, searches)
    track_together(trackers, [video[1] for video in VIDEOS])
    assert calls == [4]


def test_what_is_wrong_with_one_is_no_matter_of_the_others():
    """A frame that is none, a tracker that was shown nothing, a template that the network makes NaN of."""
    network = TrackingNetwork(small_model())
    alone, together = shown(network), shown(network)
    together[0].template = together[0].template * np.nan
    frames = [VIDEOS[0][1], VIDEOS[1][1], VIDEOS[2][1][:5], VIDEOS[0][1]]
    found = track_together([*together, Tracker(network)], frames)
    assert [type(one) for one in found] == [NonFiniteError, Track, FrameError, RuntimeError]
    assert found[1].box == pytest.approx(alone[1].track(frames[1]).box, abs=1e-3)
    assert [type(one) for one in track_together(together[2:], frames[2:3])] == [FrameError]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_what_a_cpu_finds():
    """Twice, so that the recorded step is replayed."""
    cpu = TrackingNetwork(small_model(), crop_on_device=True)
    expected, got = shown(cpu), shown(TrackingNetwork(small_model(), "cuda"))
    for frames in list(zip(*(video[1:] for video in VIDEOS), strict=True))[:2]:
        for one, other in zip(track_together(expected, frames), track_together(got, frames), strict=True):
            assert other.box == pytest.approx(one.box, abs=1e-2)
