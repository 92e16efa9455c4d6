"""What a tracker bears: every case is the same video otherwise, and a small record from end to end."""

import json

import numpy as np
import pytest
import torch

from benchmarks import record, robustness
from grm.config import SyntheticConfig
from grm.data.synthetic import synthetic_sequence
from grm.model import reconfigure_weights, save_weights
from tests.grm.model.small import small_model


@pytest.mark.parametrize("name", robustness.CASES)
def test_cases_are_the_same_video(name):
    """They begin with the same box, and their boxes are those of the video without, where the target is not away."""
    sequence = synthetic_sequence(SyntheticConfig(**robustness.CASES[name]), 5)
    usual = synthetic_sequence(SyntheticConfig(), 5)
    assert np.array_equal(sequence.boxes[0], usual.boxes[0]) and sequence.visible[0]
    known = [(usual.boxes == box).all(-1).any() for box in sequence.boxes if np.isfinite(box).all()]
    assert np.mean(known) == 1 or ("absences" in robustness.CASES[name] and 0.3 < np.mean(known) < 1)


def test_record(tmp_path, monkeypatch):
    """Two cases on two small sequences; the first is what the other is compared with."""
    small = {"width": 96, "height": 64, "frames": 20, "size": (16, 20)}
    cases = {"usual": small, "noisy": {**small, "noise": (40, 40)}}
    monkeypatch.setattr(robustness, "CASES", cases)
    save_weights(small_model(), tmp_path / "plain.safetensors")
    weights = tmp_path / "weights.safetensors"
    reconfigure_weights(tmp_path / "plain.safetensors", weights, ["model.certainty={lost_below: 0, held_from: 1}"])
    measured = record.check(json.loads(json.dumps(robustness.run(weights, torch.float32, 2))))
    usual, noisy = measured["cases"].values()
    assert usual["difference"] == 0 == usual["standard_error"] and usual["frames"] == noisy["frames"] == 38
    assert noisy["ao"] - usual["ao"] == pytest.approx(noisy["difference"]) and noisy["difference"] != 0
    assert usual["called_lost"]["other"] == 0  # no score is below 0
    text = record.markdown(measured)
    assert "| noisy |" in text and f"{noisy['difference']:+.3f} ± {noisy['standard_error']:.3f}" in text
