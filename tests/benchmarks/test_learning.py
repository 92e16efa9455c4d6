"""What is made of tracked frames: losses of a target by hand, and a small record from end to end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import learning
from benchmarks.record import check
from grm.config import SyntheticConfig
from grm.data.export import export_folder
from grm.data.synthetic import synthetic_sequence
from grm.errors import DataError
from grm.model import save_weights
from tests.grm.model.small import small_model


@pytest.mark.parametrize(
    ("overlap", "frame"),
    [
        ([0.5, 0.09, 0.09, 0.09, 0.09, 0.09, 0.5], 1),
        ([0.5, 0.09, 0.09, 0.09, 0.09, 0.5, 0.09], None),
        ([0.5, 0.09, 0.09, np.nan, 0.09, 0.09, 0.09], 1),
        ([np.nan, np.nan, 0, 0, 0, 0, 0], 2),
        ([0, 0, 0], None),
    ],
)
def test_lost_after_five_frames_in_a_row(overlap, frame):
    assert learning.lost_at(np.array(overlap)) == frame


def lost(hidden=None, other=(500, 0, 10, 10), last=0.0):
    """A target that stands at (0, 0), 10 x 10, in 20 frames; from frame 8 on the box is at (100, 0)."""
    boxes = np.tile([0.0, 0, 10, 10], (20, 1))
    boxes[8:, 0] = 100
    shown = np.ones(20)
    if hidden is not None:
        shown[hidden] = 0.4
    sequence = SimpleNamespace(shown=shown, other_boxes=np.tile(np.array(other, dtype=float), (1, 20, 1)))
    overlap = (boxes[1:, 0] == 0).astype(float)
    overlap[-1] = last
    return learning.loss_of(learning.Tracked(boxes[1:], np.ones(19), np.ones((19, 1)), overlap), sequence)


def test_how_a_target_was_lost():
    assert lost() == {"hidden": False, "on_another": False, "found_again": False}
    assert [lost(hidden=frame)["hidden"] for frame in (2, 3, 8, 9)] == [False, True, True, False]
    assert lost(other=(103, 0, 10, 10))["on_another"] and not lost(other=(106, 0, 10, 10))["on_another"]
    assert lost(last=0.6)["found_again"] and not lost(last=0.4)["found_again"]


def test_nothing_lost():
    tracked = learning.Tracked(np.ones((9, 4)), np.ones(9), np.ones((9, 1)), np.ones(9))
    assert learning.loss_of(tracked, None) is None


def test_record(tmp_path, monkeypatch):
    monkeypatch.setattr(
        learning, "SyntheticConfig", lambda: SyntheticConfig(width=96, height=64, frames=20, size=(16, 20))
    )
    save_weights(small_model(), tmp_path / "weights.safetensors")
    for seed in (1, 2):
        export_folder(synthetic_sequence(learning.SyntheticConfig(), seed), tmp_path / "videos" / str(seed))
    record = learning.run(tmp_path / "weights.safetensors", torch.float32, 3, tmp_path / "videos")
    record = check(json.loads(json.dumps(record)))
    synthetic, folders = record["synthetic"], record["folders"]
    assert synthetic["sequences"] == 3 and 0 <= synthetic["lost"]["sequences"] <= 3
    assert synthetic["ao"] == synthetic["ao_of_the_first_20"] and 0 < synthetic["ao_unmoved"] < 1
    assert len(synthetic["share_of_a"]) == 4 and synthetic["share_of_a"][0] == 1
    assert [row["frames"] for row in folders["sequences"].values()] == [20, 20]
    assert folders["ao"] == pytest.approx(np.mean([row["ao"] for row in folders["sequences"].values()]))
    with pytest.raises(DataError, match=r"nowhere: neither groundtruth\.txt nor"):
        learning.run(tmp_path / "weights.safetensors", torch.float32, 1, tmp_path / "nowhere")
