"""The weights that come with the project: they load, and they track what they have not seen."""

import numpy as np
import pytest
import torch

from grm.config import load_config
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.evaluation.runner import mean_overlap, unmoved_overlap
from grm.model import GRM, load_model, load_pretrained
from grm.tracking import Tracker


@pytest.mark.parametrize(("name", "preset"), [("nano", "grm_nano"), ("real", "real_tiny"), ("tiny", "synthetic_tiny")])
def test_weights_fit_their_preset_and_track(name, preset):
    """At least 0.20 above the box of the first frame, on rendered sequences that were in no evaluation of a run."""
    model = load_model(name)
    bounds = model.config.certainty
    own = load_config(preset).model
    assert model.config.model_copy(update={"certainty": own.certainty}) == own
    config = load_config("synthetic_tiny")
    assert bounds.lost_below is not None and bounds.lost_below < bounds.held_from
    tracker = Tracker(model)
    sequences = [synthetic_sequence(config.data.synthetic, HELD_OUT + seed) for seed in range(100, 104)]
    ao = np.mean([mean_overlap(tracker, sequence) for sequence in sequences])
    assert ao > np.mean([unmoved_overlap(sequence) for sequence in sequences]) + 0.2
    assert next(model.parameters()).dtype == torch.float32


def test_training_can_begin_with_a_name():
    model = GRM(load_config("grm_nano").model)
    load_pretrained(model, "nano")
    for name, tensor in load_model("nano").state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
