"""Files of weights as people come to have them, and as those who mean harm would make them."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from grm.errors import WeightsError
from grm.model import GRM, is_published, load_model, load_weights, save_weights
from grm.training.checkpoint import Checkpoint, save_checkpoint

from ..training.pairs import training_config
from .small import SMALL, small_config, small_model
from .test_weights import assert_same_state, published


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_leave_no_trace(tmp_path, prefix):
    model = small_model()
    net = {prefix + name: tensor for name, tensor in published(model).items()}
    torch.save({"net": net}, tmp_path / "GRM.pth.tar")
    loaded = GRM(small_config())
    load_weights(loaded, tmp_path / "GRM.pth.tar")
    assert_same_state(loaded.state_dict(), model.state_dict())

    own = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    metadata = {"format": "grm-1", "config": model.config.model_dump_json()}
    save_file(own, tmp_path / "model.SAFETENSORS", metadata)
    assert_same_state(load_model(tmp_path / "model.SAFETENSORS").state_dict(), model.state_dict())


def test_a_compiled_model_is_saved_as_what_it_is(tmp_path):
    model = small_model()
    save_weights(torch.compile(model), tmp_path / "model.safetensors")
    assert_same_state(load_model(tmp_path / "model.safetensors").state_dict(), model.state_dict())


def test_a_runs_own_checkpoint_is_loaded(tmp_path):
    config = training_config()
    model = GRM(config.model)
    state = {"model": model.state_dict(), "optimizer": {}, "scaler": {}}
    save_checkpoint(Checkpoint(3, 8, config.model_dump_json(), state, {}), tmp_path / "checkpoint.pt")
    loaded = load_model(tmp_path / "checkpoint.pt")
    assert loaded.config == config.model
    assert_same_state(loaded.state_dict(), model.state_dict())
    again = GRM(config.model)
    load_weights(again, tmp_path / "checkpoint.pt")
    assert_same_state(again.state_dict(), model.state_dict())


def test_only_published_checkpoints_need_a_configuration(tmp_path):
    """By what a file holds, not by what it is called."""
    config = training_config()
    state = {"model": GRM(config.model).state_dict(), "optimizer": {}, "scaler": {}}
    save_checkpoint(Checkpoint(3, 8, config.model_dump_json(), state, {}), tmp_path / "GRM_ep0300.pth.tar")
    save_weights(small_model(), tmp_path / "model.safetensors")
    torch.save({"net": published(small_model())}, tmp_path / "checkpoint.pt")
    found = {path.name: is_published(path) for path in tmp_path.iterdir()}
    assert found == {"GRM_ep0300.pth.tar": False, "model.safetensors": False, "checkpoint.pt": True}


def test_a_section_of_another_name_is_pointed_at(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"epoch": 3, "ema": {"x": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match=r"torch\.save\(\{'net': checkpoint\['ema'\]\}, \.\.\.\)$"):
        load_weights(small_model(), path)
    torch.save({"x": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"torch\.save\(\{'net': checkpoint\}, \.\.\.\)$"):
        load_weights(small_model(), path)
    torch.save({"net": published(small_model())}, path)
    with pytest.raises(WeightsError, match="a published one needs its configuration"):
        load_model(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64], ids=str)
def test_weights_of_other_numbers_are_named(tmp_path, dtype):
    model = small_model()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["head.size.4.bias"] = tensors["head.size.4.bias"].to(dtype)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "grm-1", "config": model.config.model_dump_json()})
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"neither float16.* nor float64: head.size.4.bias \({kind}\)"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    model = small_model()
    model.head.size[-1].bias.data[0] = value
    save_weights(model, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"with NaN or infinity in it: head\.size\.4\.bias$"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": {"width": 8192, "heads": 128, "depth": 4}},
        {"encoder": {"patch": 2}, "search": {"size": 256}, "template": {"size": 64}},
        {"head": {"channels": 8192}},
        {"division": {"hidden": [8192, 8192]}},
    ],
    ids=str,
)
def test_a_configuration_is_not_built_before_its_weights_are_seen(tmp_path, change):
    path = tmp_path / "model.safetensors"
    save_weights(small_model(), path)
    config = {key: {**SMALL.get(key, {}), **change.get(key, {})} for key in {*SMALL, *change}}
    for crop in ("search", "template"):
        config[crop] = {"factor": 2.0, **config[crop]}
    save_file(load_file(path), path, {"format": "grm-1", "config": json.dumps(config)})
    start = time.monotonic()
    with pytest.raises(WeightsError, match="these weights do not fit the model"):
        load_model(path)
    assert time.monotonic() - start < 10


def test_what_a_file_says_does_not_steer_a_terminal(tmp_path):
    path = tmp_path / "model.safetensors"
    forged = "\x1b[2J\ngrm: all is well\r" + 10_000 * "x"
    save_file({forged: torch.zeros(1)}, path, {"format": "grm-1", "config": small_config().model_dump_json()})
    with pytest.raises(WeightsError, match="unexpected: ") as error:
        load_model(path)
    unexpected = next(line for line in str(error.value).split("\n") if "unexpected" in line)
    assert r"\x1b[2J\ngrm: all is well\rxxx" in unexpected and len(unexpected) < 300
    save_file({"x": torch.zeros(1)}, path, {"format": forged, "config": "{}"})
    with pytest.raises(WeightsError) as error:
        load_model(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 400
    for broken in ("[" * 100_000, "{"):
        save_file({"x": torch.zeros(1)}, path, {"format": "grm-1", "config": broken})
        with pytest.raises(WeightsError, match="the configuration in the file is broken"):
            load_model(path)
