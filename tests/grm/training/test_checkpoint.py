"""Checkpoints: whole or not at all, and only for the run that they are of."""

import errno
import io
import json
import os

import pytest
import torch

from grm import files
from grm.errors import CheckpointError
from grm.training import checkpoint as module
from grm.training.checkpoint import Checkpoint, check_resumable, load_checkpoint, save_checkpoint

from .pairs import training_config


def make_checkpoint(step=3, config=None):
    config = config or training_config()
    state = {"model": {"w": torch.arange(4.0)}, "optimizer": {}, "scaler": {}}
    return Checkpoint(step, 8, config.model_dump_json(), state, {2: {"ao": 0.5}})


def test_survives_the_disk(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(make_checkpoint(), path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.state["model"]["w"], torch.arange(4.0))
    assert loaded._replace(state={}) == make_checkpoint()._replace(state={})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_previous_one(tmp_path, monkeypatch, where):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(make_checkpoint(3), path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    class FullFile(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[:100])
            full()

    if where == "write":
        monkeypatch.setattr(files, "open", FullFile, raising=False)
    else:
        monkeypatch.setattr(os, {"fsync": "fsync", "rename": "replace"}[where], full)
    with pytest.raises(OSError, match=r"No space left on device: .*checkpoint.pt'"):
        save_checkpoint(make_checkpoint(5), path)
    monkeypatch.undo()
    assert load_checkpoint(path).step == 3
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_a_killed_process_left_half_written_is_not_read(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(make_checkpoint(3), path)
    (tmp_path / ".checkpoint.pt.1.tmp").write_bytes(path.read_bytes()[:200])
    assert load_checkpoint(path).step == 3
    save_checkpoint(make_checkpoint(5), path)
    assert load_checkpoint(path).step == 5


@pytest.mark.parametrize("content", ["cut", "empty", "text", "weights", "code", "damaged"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(make_checkpoint(), path)
    if content == "weights":
        torch.save({"model": {}}, path)
    elif content == "code":
        torch.save({"format": module.FORMAT, "callback": print}, path)
    else:
        whole = path.read_bytes()
        damaged = whole.replace(torch.arange(4.0).numpy().tobytes(), torch.ones(4).numpy().tobytes())
        path.write_bytes({"cut": whole[:-300], "empty": b"", "text": b"hello", "damaged": damaged}[content])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: (the checkpoint is broken|not a checkpoint of)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": -1},
        {"config": 3},
        {"state": {}},
        {"evaluations": [1]},
        {"evaluations": {1: {"ao": "x"}}},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(tmp_path, change):
    save_checkpoint(make_checkpoint()._replace(**change), tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="its values are not of the kinds expected"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_only_its_own_run_goes_on():
    checkpoint = make_checkpoint(config=training_config("model.division.fixed={3: S}"))
    same = ("model.division.fixed={3: S}",)
    check_resumable(checkpoint, training_config(*same, "training.workers=3", "training.log_every=7"), 8)
    held_out = "data.held_out={it: {kind: synthetic, limit: 3}}"
    check_resumable(checkpoint, training_config(*same, "data.failures=99", "data.root=/moved", held_out), 8)
    # Two processes that accumulate one pass each may go on for one that accumulated two.
    check_resumable(checkpoint, training_config(*same, "training.accumulate=2"), 8)
    message = r"learning_rate was 0.001, is 0.1; training.loss.l1 was 5.0, is 1.0$"
    with pytest.raises(CheckpointError, match=message):
        other = training_config(*same, "training.learning_rate=0.1", "training.loss.l1=1")
        check_resumable(checkpoint, other, 8)
    with pytest.raises(CheckpointError, match=r"fixed.* was .*, is"):
        check_resumable(checkpoint, training_config(), 8)
    with pytest.raises(CheckpointError, match=r"another version: .*'gone'"):
        check_resumable(checkpoint._replace(config='{"gone": 1}'), training_config(*same), 8)
    with pytest.raises(CheckpointError, match="a step took 8 samples over all processes, now 16"):
        check_resumable(checkpoint, training_config(*same, "training.accumulate=2"), 16)


def test_data_sets_keep_their_order():
    """Which one a number draws goes by its place among all."""
    sets = [f"data.train.{name}={{kind: synthetic, limit: 3}}" for name in ("one", "two")]
    checkpoint = make_checkpoint(config=training_config(*sets))
    check_resumable(checkpoint, training_config(*sets), 8)
    with pytest.raises(CheckpointError, match=r"the order of data.train was .*one, two, is .*two, one$"):
        check_resumable(checkpoint, training_config(*sets[::-1]), 8)


def test_a_checkpoint_of_before_a_key_goes_on_with_its_default():
    stored = json.loads(training_config().model_dump_json())
    for key in ("ratios", "ratio_rule", "region"):
        del stored["model"]["division"][key]
    del stored["model"]["encoder"]["epsilon"]
    before = make_checkpoint()._replace(config=json.dumps(stored))
    check_resumable(before, training_config(), 8)
    other = training_config("model.encoder.attention=masked", "model.encoder.epsilon=1e-6")
    with pytest.raises(CheckpointError, match=r"model.encoder.epsilon was 0.0, is 1e-06$"):
        check_resumable(before, other, 8)
