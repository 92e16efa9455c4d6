"""What is made of frames that trackers followed, and a small comparison from end to end."""

import cv2
import numpy as np
import pytest

from benchmarks import trackers
from benchmarks.record import check, markdown
from grm.config import SyntheticConfig
from grm.data.export import export_folder
from grm.data.synthetic import synthetic_sequence
from grm.errors import DataError
from grm.tracking import Tracker
from tests.grm.model.small import small_model


class Scripted:
    """Says the boxes that it was made of."""

    def __init__(self, boxes):
        self._boxes = boxes

    def initialize(self, frame, box):
        self._next = iter(self._boxes)

    def track(self, frame):
        return trackers.Said(np.array(next(self._next), dtype=float))


class Still:
    """A target that stands at (0, 0), 10 x 10; it has no box in the third frame."""

    name = "still"
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [np.nan] * 4, [0, 0, 10, 10], [0, 0, 10, 10]])

    def __len__(self):
        return len(self.boxes)

    def frame(self, index):
        return np.zeros((32, 32, 3), np.uint8)


def test_overlaps_and_their_summary():
    """By hand: overlaps of 0.8, none known, 0 where no box is given, and 0.5, which is no success."""
    boxes = [[0, 0, 8, 10], [0, 0, 1, 1], [np.nan] * 4, [0, 0, 5, 10]]
    followed = trackers.follow(Scripted(boxes), Still())
    np.testing.assert_allclose(followed.overlap, [0.8, np.nan, 0, 0.5])
    summary = trackers.summarize({"still": followed})
    assert summary["ao"] == pytest.approx(1.3 / 3) and summary["iou_1"] == pytest.approx(0.8)
    assert summary["sr50"] == pytest.approx(1 / 3) and summary["lost"] == 0


def test_a_lost_target_is_counted():
    summary = trackers.summarize({"a": trackers.Followed(np.array([0.9] + [0.0] * 5), np.ones(6))})
    assert summary["lost"] == 1


def test_what_this_opencv_lacks_is_said():
    found, absent = trackers.opencv_trackers(None, None)
    for name in ("CSRT", "KCF", "MIL"):
        has = hasattr(cv2, f"Tracker{name}_create") or hasattr(getattr(cv2, "legacy", None), f"Tracker{name}_create")
        assert (name in found) == has == (not any(line.startswith(name) for line in absent))
    assert any("--vit" in line for line in absent) and any("--nano" in line for line in absent)


def test_comparison(tmp_path):
    """One thread and small frames; the truth itself, scripted, wins."""
    config = SyntheticConfig(width=96, height=64, frames=20, size=(16, 20))
    sequence = synthetic_sequence(config, 1)
    export_folder(sequence, tmp_path / "videos" / "one")
    followers = {
        "ours": Tracker(small_model()),
        "truth": Scripted(sequence.boxes[1:]),
        "unmoved": trackers.Unmoved(),
    }
    record = {**trackers.run(tmp_path / "videos", followers), "dtype": "float32", "weights": {}}
    rows = record["trackers"]
    # The folder's boxes are rounded to hundredths of a pixel at least.
    assert rows["truth"]["ao"] == pytest.approx(1, abs=0.01) and rows["truth"]["sr50"] == 1
    assert rows["ours"]["milliseconds"] > 0 and 0 < rows["unmoved"]["ao"] < 1
    first = markdown(check(record)).splitlines()[2]
    assert first.startswith("| truth | 1.000 | 1.000 | 1.000 | 0 |")
    with pytest.raises(DataError, match="nowhere"):
        trackers.run(tmp_path / "nowhere", followers)
