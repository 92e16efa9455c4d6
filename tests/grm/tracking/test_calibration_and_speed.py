"""Layers that never divide, and the stopwatch."""

import time

import cv2
import numpy as np
import pytest
import torch

from grm.errors import WeightsError
from grm.evaluation.forms import FORMS, balance_division, dividing_forms
from grm.evaluation.speed import (
    FormSpeed,
    _error_of_median,
    compare_dtypes,
    measure_forms,
    measure_models,
    saving,
    time_parts,
)
from grm.model import reconfigured, save_weights
from grm.model.division import TokenDivision
from grm.model.encoder import Attention
from grm.tracking import Tracker
from grm.tracking.calibration import calibrate, fix_layers

from ..model.small import small_config, small_model
from .scenes import noise_frames

BOX = (40, 30, 20, 13)


def shares_of_s(model, frame):
    tracker = Tracker(model)
    tracker.initialize(frame, BOX)
    _, crops = tracker.search_crops(frame)
    return (tracker.locate(crops).divisions[0] == 1).mean((1, 2))


def model_with_constant_layers():
    """Layer 2 is always S, layer 3 always A, layer 4 divides."""
    model = small_model()
    for number, towards in ((2, -1e3), (3, 1e3)):
        model.encoder.layers[number - 1].attention.division.third.bias.data[1] = towards
    return model


def test_calibration_finds_what_never_changes():
    divisions = np.full((5, 4, 4, 4), 2, np.uint8)
    divisions[:, 1] = 1
    divisions[:4, 2] = 1  # of the last frame all A
    divisions[:, 3, 0] = 1
    found = calibrate(divisions, small_config())
    assert found.frames == 5
    assert found.fixed == {2: "S"}
    assert found.shares == {2: (0, 0, 0), 3: (0, pytest.approx(0.2), 1), 4: (0.75, 0.75, 0.75)}


def test_one_token_in_one_frame_keeps_a_layer_free():
    divisions = np.full((5, 4, 4, 4), 1, np.uint8)
    divisions[3, 2, 1, 1] = 2
    assert calibrate(divisions, small_config()).fixed == {2: "S", 4: "S"}


@pytest.mark.parametrize("shape", [(0, 4, 4, 4), (5, 3, 4, 4), (4, 4, 4)])
def test_calibration_refuses_other_divisions(shape):
    with pytest.raises(ValueError, match=r"expected shape \(frames, 4, 4, 4\)"):
        calibrate(np.ones(shape, np.uint8), small_config())


def test_fixing_what_never_changes_changes_nothing():
    model, frames = model_with_constant_layers(), noise_frames(4)
    tracks, trackers = [], [Tracker(model)]
    trackers[0].initialize(frames[0], BOX)
    tracks = [trackers[0].track(frame) for frame in frames[1:]]
    found = calibrate(np.stack([track.division for track in tracks]), model.config)
    assert {number: found.fixed[number] for number in (2, 3)} == {2: "S", 3: "A"}
    fixed = fix_layers(model, {2: "S", 3: "A"})
    fixed.encoder.layers[1].attention.division.forward = None  # would fail
    fixed.encoder.layers[2].attention.division.forward = None
    tracker = Tracker(fixed)
    tracker.initialize(frames[0], BOX)
    for frame, expected in zip(frames[1:], tracks, strict=True):
        got = tracker.track(frame)
        assert got.box == pytest.approx(expected.box, abs=1e-4)
        assert np.array_equal(got.division, expected.division)
    free = fix_layers(fixed, {})
    assert free.config == model.config
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in free.state_dict().items())


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize(
    "overrides", [(), ("division.variant=tsa",), ("template_box=true",), ("encoder.backend=cuda",)], ids=str
)
def test_balanced_division_has_the_share_asked_for(share, overrides):
    model, frame = small_model(*overrides), noise_frames(1)[0]
    balance_division(model, frame, BOX, share)
    shares = shares_of_s(reconfigured(model, ["model.encoder.backend=null"]), frame)
    assert np.abs(shares[1:] - share).max() <= 1 / 16 + 1e-9
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("variant", "names"), [("sa", {"S or T", "S, T or A"}), ("tsa", {"S or T", "S or A"})])
def test_the_other_forms_that_divide_have_its_weights_and_its_shares(variant, names):
    model, frame = small_model(f"division.variant={variant}", "division.fixed={2: S}"), noise_frames(1)[0]
    balance_division(model, frame, BOX, 0.75)
    forms = dividing_forms(model, frame, BOX, 0.5)
    assert set(forms) == names
    for form in forms.values():
        # Two tokens of 16 at most: the boundary of one, and the same of the layers before.
        assert np.abs(shares_of_s(form, frame) - shares_of_s(model, frame)).max() <= 2 / 16
        shared = {name: tensor for name, tensor in form.state_dict().items() if ".third." not in name}
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in shared.items())
    three = dividing_forms(small_model(), frame, BOX, 0.5)["S, T or A"]
    speed = measure_models({"it": three}, frame, BOX, rounds=1)[0]
    assert min(speed.shares) > 0 and sum(speed.shares) == pytest.approx(1)
    without = dividing_forms(small_model("division.variant=one_stream"), frame, BOX, 0.25)
    assert set(without) == {"S or T", "S, T or A", "S or A"}
    assert np.abs(shares_of_s(without["S or A"], frame)[1:] - 0.25).max() <= 1 / 16


def test_every_form_is_timed(monkeypatch):
    attend = Attention.attend
    monkeypatch.setattr(Attention, "attend", lambda *args: time.sleep(0.002) or attend(*args))
    model, frame = small_model(), noise_frames(1)[0]
    speeds = measure_forms(model, frame, [BOX, BOX], fixed={2: "S"}, rounds=2)
    assert [speed.form for speed in speeds] == [*FORMS, "fused, layers fixed"]
    for speed in speeds:
        assert min(speed.pre_processing, speed.post_processing) > 0
        assert min(speed.attention, speed.model) > 4 * 0.002  # layers
        assert speed.total == speed.pre_processing + speed.model + speed.post_processing


def speed_of(model, error):
    return FormSpeed("", 0, model, 0, 0, error, (0, 0.5, 0.5))


def test_a_saving_has_its_error():
    """Of the median of 101 normal times, and of the ratio of two: against draws."""
    chance = np.random.default_rng(0)
    draws = chance.normal(1, 0.1, (4000, 101))
    medians = np.median(draws, axis=1)
    errors = [_error_of_median(list(row)) for row in draws[:200]]
    assert np.mean(errors) == pytest.approx(medians.std(), rel=0.1)
    savings = 1 - 0.8 * medians[:2000] / medians[2000:]
    share, error = saving(speed_of(1.0, medians.std()), speed_of(0.8, 0.8 * medians.std()))
    assert share == pytest.approx(0.2) and error == pytest.approx(savings.std(), rel=0.1)


@pytest.mark.parametrize(("error", "said"), [(0.001, "saves 10.0% of the network's time (± 0.3%)"), (0.05, "nothing")])
def test_noise_is_no_saving(grm, tmp_path, monkeypatch, error, said):
    model = small_model()
    model.encoder.layers[1].attention.division.third.bias.data[1] = -1e3
    save_weights(model, tmp_path / "model.safetensors")
    for index, frame in enumerate(noise_frames(3)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), frame[..., ::-1])
    forms = [speed_of(1.0, error)._replace(form="fused"), speed_of(0.9, error)._replace(form="fused, layers fixed")]
    monkeypatch.setattr("grm.evaluation.speed.measure_forms", lambda *_, **__: forms)
    status, out, _ = grm("calibrate", tmp_path, "--weights", tmp_path / "model.safetensors", "--box", "40,30,20,13")
    assert status == 0 and said in out


def test_forms_are_what_they_are_called(monkeypatch):
    """The two forms without a division divide nothing, and keep the weights of the model."""
    model, frame = small_model(), noise_frames(1)[0]
    one, two = (reconfigured(model, FORMS[form]) for form in ("one-stream", "two-stream"))
    assert not any(isinstance(module, TokenDivision) for form in (one, two) for module in form.modules())
    assert (shares_of_s(one, frame) == 0).all()
    assert shares_of_s(two, frame).tolist() == [1, 1, 1, 0]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in two.state_dict().items())
    assert next(reconfigured(model.double(), []).parameters()).dtype == torch.float64
    with pytest.raises(WeightsError, match=r"has no encoder.layers.1.*division.*\(\d+ weights missing\)"):
        reconfigured(two, ["model.division.variant=sa"])


def test_wrong_attention_is_not_timed(monkeypatch):
    from grm.model import encoder

    right = encoder.masked_attention
    monkeypatch.setattr(encoder, "masked_attention", lambda *args, **options: right(*args, **options) * 1.001)
    with pytest.raises(RuntimeError, match="fused and masked attention differ"):
        measure_forms(small_model(), noise_frames(1)[0], BOX, rounds=1)


def test_parts_add_up():
    parts = time_parts(small_model(), noise_frames(1)[0], BOX, dtype=torch.float32, rounds=3)
    assert set(parts) == {
        "stem", "q, k, v", "division", "attention", "output projection", "MLP", "head", "everything else",
    }  # fmt: skip
    assert all(seconds > 0 for seconds in parts.values())
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


def test_dtypes_are_compared_on_the_same_crops():
    frames = noise_frames(4)
    same = compare_dtypes(small_model(), frames, BOX, torch.float32)
    assert same == (3, pytest.approx(1), 0)
    other = compare_dtypes(small_model(), frames, BOX, torch.bfloat16)
    assert other.frames == 3 and 0.5 < other.mean_iou < 1 and 0 <= other.flips < 0.2
    with pytest.raises(ValueError, match="two or more"):
        compare_dtypes(small_model(), frames[:1], BOX, torch.bfloat16)
