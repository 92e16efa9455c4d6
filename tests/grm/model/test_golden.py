"""Agreement with numbers computed by the published implementation.

They are no part of the project: the environment variable GRM_GOLDEN names the folder that has them.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from grm.config import parse_config
from grm.model import GRM, load_weights
from grm.model.published import _our_name

FOLDER = os.environ.get("GRM_GOLDEN")
pytestmark = pytest.mark.skipif(not FOLDER, reason="GRM_GOLDEN does not name a folder of golden values")

CONFIG = {
    "template": {"size": 64, "factor": 2},
    "search": {"size": 128, "factor": 4},
    "encoder": {"width": 128, "depth": 4, "heads": 2, "drop_path": 0},
    "head": {"channels": 64},
}
# The published softmax carries an epsilon of 1e-6.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    return {name: torch.from_numpy(array) for name, array in np.load(Path(FOLDER) / "model.npz").items()}


def model_of(backend, **division):
    encoder = {**CONFIG["encoder"], "backend": backend.name}
    model = GRM(parse_config({"model": {**CONFIG, "encoder": encoder, "division": division}}).model)
    load_weights(model, Path(FOLDER) / "GRM_tiny_ep0001.pth.tar")
    return model.to(backend.device)


def assert_agrees(actual, expected):
    error = (actual.detach().cpu() - expected).abs().amax() / expected.abs().amax()
    assert error < TOLERANCE


def assert_decisions(prediction, expected):
    decisions = torch.stack([division.categories.cpu() for division in prediction.divisions[1:]]) == 2
    assert torch.equal(decisions, expected.bool())


@pytest.mark.parametrize("prepared", [False, True], ids=["as trained", "prepared"])
@pytest.mark.parametrize(("run", "threshold"), [("eval_thr0", None), ("eval_thr4", 0.4)])
def test_inference(golden, backend, run, threshold, prepared):
    model = model_of(backend, threshold=threshold).eval()
    if prepared:
        model = model.prepare_inference()
    prediction = model(golden["template"].to(backend.device), golden["search"].to(backend.device))
    assert_decisions(prediction, golden[f"{run}_decisions"])
    assert_agrees(prediction.boxes, golden[f"{run}_pred_boxes"].squeeze(1))
    for name in ("score_map", "size_map", "offset_map"):
        assert_agrees(getattr(prediction, name), golden[f"{run}_{name}"])


def test_training(golden, backend):
    if backend.device != "cpu":
        pytest.skip("the noise of the division was drawn on a CPU")
    model = model_of(backend).train()
    torch.manual_seed(3)
    prediction = model(golden["template"], golden["search"])
    loss = (prediction.boxes**2).sum() + (prediction.score_map**2).sum()
    loss.backward()
    assert_decisions(prediction, golden["train_decisions"])
    assert_agrees(prediction.boxes, golden["train_pred_boxes"].squeeze(1))
    assert_agrees(prediction.score_map, golden["train_score_map"])
    assert_agrees(loss, golden["train_loss"])
    gradients = {name.removeprefix("grad:"): g for name, g in golden.items() if name.startswith("grad:")}
    assert gradients
    for name, gradient in gradients.items():
        assert_agrees(model.get_parameter(_our_name(name)).grad, gradient)
