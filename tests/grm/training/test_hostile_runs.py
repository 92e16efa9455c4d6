"""Folders of runs in which something is wrong, or somebody else."""

import json
import os
import signal

import pytest
import torch

from grm.errors import CheckpointError, DataError, WeightsError
from grm.files import locked
from grm.training.checkpoint import Checkpoint, save_checkpoint

from .pairs import training_config
from .test_trainer import BreakAt, make_trainer


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path):
    with locked(tmp_path, RuntimeError()), pytest.raises(CheckpointError, match="another process trains in it"):
        make_trainer(tmp_path).run()
    assert not os.listdir(tmp_path)
    assert make_trainer(tmp_path, "training.epochs=1", "training.milestones=[1]").run().finished


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ("[1, 2]", False),
        ("3", False),
        ("{}", False),
        ('{"step": "one"}', False),
        ('{"step": 1, "total": [1]}', False),
        ("\xff\xfe", False),
        ("[" * 100_000, False),
        ('{"step": 3, "epo', True),  # cut short
    ],
    ids=range(8),
)
def test_a_log_of_something_else(tmp_path, line, accepted):
    config = training_config()
    trainer = make_trainer(tmp_path)
    trainer._begin(resume=False)
    trainer._save(1)
    trainer._log.close()
    after = "" if accepted else json.dumps({"step": 2}) + "\n"
    (tmp_path / "metrics.jsonl").write_bytes((json.dumps({"step": 1}) + "\n" + line + "\n" + after).encode("latin-1"))
    again = make_trainer(tmp_path)
    if accepted:
        assert again._begin(resume=True) == 1
        again._log.close()
    else:
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is none of a run's log"):
            again._begin(resume=True)
    assert config == trainer.config


@pytest.mark.parametrize("section", ["model", "optimizer", "scaler"])
def test_a_checkpoint_of_another_model(tmp_path, section):
    trainer = make_trainer(tmp_path)
    trainer._begin(resume=False)
    trainer._log.close()
    state = trainer._step.state()
    state[section] = {"nothing": torch.zeros(1)}
    checkpoint = Checkpoint(1, trainer._step_samples, trainer.config.model_dump_json(), state, {})
    save_checkpoint(checkpoint, tmp_path / "checkpoint.pt")
    if section == "scaler":  # not used in float32
        make_trainer(tmp_path)._begin(resume=True)
        return
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: does not fit this model: ") as error:
        make_trainer(tmp_path)._begin(resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth.tar", "pth"])
def test_pretrained_weights_that_never_come(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    os.mkfifo(path)
    signal.alarm(20)
    try:
        with pytest.raises(WeightsError, match="expected a file, got a pipe or a device"):
            make_trainer(tmp_path / "run", f"training.pretrained={path}").run()
    finally:
        signal.alarm(0)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "unable to write to file </torch_7_1>: No space left on device (28)",
    ],
    ids=["killed", "full"],
)
def test_shared_memory_that_is_too_small(tmp_path, message):
    trainer = make_trainer(tmp_path, dataset=BreakAt((0, 5), RuntimeError(message)))
    with pytest.raises(DataError, match=r"--shm-size=1g\), or make samples without workers \(training\.workers=0\)$"):
        trainer.run()
