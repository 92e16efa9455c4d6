"""VOT's supervised protocol: when a tracker is shown its target again, and what of it counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from grm.errors import DataError
from grm.evaluation.rendering import cells, header
from grm.evaluation.report import compare
from grm.evaluation.restarts import accuracy_and_failures, track_with_restarts
from grm.evaluation.results import Results, RunFolder
from grm.evaluation.scoring import Truth, score_sequence

from .scenes import Clip


class Losing:
    """On its target until frames of these numbers, where it looks elsewhere; half beside it otherwise."""

    def __init__(self, clip, lost=()):
        self.clip, self.lost, self.shown = clip, lost, []

    def initialize(self, frame, box):
        self.shown.append(int(frame.max()))

    def track(self, frame):
        index = int(frame.max())
        assert index > self.shown[-1]
        box = np.nan_to_num(self.clip.boxes[index], nan=1) + ([500, 0, 0, 0] if index in self.lost else [0, 0, 20, 0])
        return SimpleNamespace(box=box, score=0.5)


def test_restarts_five_frames_after_a_failure():
    clip = Clip("a", 40)
    tracker = Losing(clip, lost=(3, 9, 38))
    tracked = track_with_restarts(tracker, clip)
    assert tracker.shown == [0, 8, 14]
    assert np.flatnonzero(np.isnan(tracked.boxes[:, 0])).tolist() == [*range(3, 8), *range(9, 14), 38, 39]
    assert np.array_equal(tracked.boxes[[0, 8, 14]], clip.boxes[[0, 8, 14]])
    # Counted: frames 24 to 37; the ten from each initialisation on are not.
    assert accuracy_and_failures(tracked.boxes, clip.boxes) == (0.5, 3)


def test_overlaps_after_the_burn_in():
    clip = Clip("a", 12)
    boxes = clip.boxes.copy()
    boxes[:10, 0] += 15
    boxes[10, 2] = 10
    assert accuracy_and_failures(boxes, clip.boxes) == (0.75, 0)
    assert accuracy_and_failures(boxes[:10], clip.boxes[:10]) == (0, 0)


def test_absent_targets_are_no_failures():
    clip = Clip("a", 30, absent=(4, 12, 13))
    tracker = Losing(clip, lost=(7,))
    tracked = track_with_restarts(tracker, clip)
    assert tracker.shown == [0, 14]  # twelve is where it would start, and there is no box
    assert accuracy_and_failures(tracked.boxes, clip.boxes) == (0.5, 1)
    with pytest.raises(DataError, match="a: expected a box in the first frame"):
        track_with_restarts(tracker, Clip("a", 5, absent=(0,)))


def test_hidden_targets_are_no_failures():
    """They have boxes, as LaSOT's and rendered ones do; nothing is to be seen there, and nothing is shown."""
    clip = Clip("a", 30)
    clip.visible[[4, 12, 13]] = False
    tracker = Losing(clip, lost=(4, 7))
    tracked = track_with_restarts(tracker, clip)
    assert tracker.shown == [0, 14]
    truth = Truth("a", clip.boxes, clip.visible)
    assert score_sequence(truth, [tracked.boxes], "restarts").figures == {"accuracy": 0.5, "failures": 1}
    # Frames that were tracked have times: not those that show the target, nor those that are skipped.
    assert np.flatnonzero(np.isfinite(tracked.seconds)).tolist() == [*range(1, 8), *range(15, 30)]


def test_speed_is_that_of_the_frames_that_were_tracked(tmp_path):
    clip = Clip("a", 40)
    tracked = track_with_restarts(Losing(clip, lost=range(1, 40)), clip)
    known = np.isfinite(tracked.seconds)
    run = RunFolder(tmp_path / "run", {"benchmark": "folder", "protocol": "restarts"}, {})
    run.write(clip, tracked._replace(seconds=np.where(known, 0.5, np.nan)))
    assert known.sum() == 7 and Results(run.folder).speed("a") == (7, 3.5)


def test_trackers_need_no_scores():
    clip = Clip("a", 5)
    silent = Losing(clip)
    silent.track = lambda frame: SimpleNamespace(box=clip.boxes[int(frame.max())])
    assert np.isnan(track_with_restarts(silent, clip).scores).all()


def test_tables(tmp_path):
    """Weighted by the number of frames, as VOT's toolkit does; and not mixed with runs of one pass."""
    clips = [Clip("a", 40), Clip("b", 20)]
    identity = {"benchmark": "folder", "protocol": "restarts"}
    run = RunFolder(tmp_path / "run", identity, {"tracker": "ours", "benchmark": "folder"})
    for clip, lost in zip(clips, ((3,), ()), strict=True):
        run.write(clip, track_with_restarts(Losing(clip, lost), clip))
    results = Results(run.folder)
    compared = compare("folder", [results], clips, "restarts")
    assert header(compared)[:3] == ["tracker", "accuracy", "failures"]
    assert cells(compared)[0][:3] == ["ours", "50.0", f"{40 / 60:.2f}"]
    with pytest.raises(DataError, match="run: was run with restarts, and all-frames needs the other"):
        compare("folder", [results], clips, "all-frames")
    once = RunFolder(tmp_path / "once", {"benchmark": "folder"}, {"tracker": "ours"})
    once.write(clips[0], track_with_restarts(Losing(clips[0]), clips[0]))
    with pytest.raises(DataError, match="once: was run in one pass, and restarts needs the other"):
        compare("folder", [Results(once.folder)], clips, "restarts")
