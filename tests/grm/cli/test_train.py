"""`grm train` on its own, with made data in the place of data sets."""

import signal

import pytest
import torch

from grm.cli import train as commands
from grm.errors import DataError
from grm.training import read_log

from ..training.pairs import SquarePairs
from .commands import MODEL

SMALL_RUN = (
    MODEL
    + """
training: {epochs: 2, batch_size: 4, workers: 0, evaluate_every: 2, log_every: 1, precision: float32}
"""
)


@pytest.fixture
def train(tmp_path, monkeypatch, grm):
    """Runs the command in an empty folder; gives its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL_RUN)
    torch.save({"weights": {}}, tmp_path / "other.pth")
    evaluation = lambda model, processes: {"ao": 0.25}  # noqa: E731
    monkeypatch.setattr(commands, "_datasets", lambda config: (SquarePairs(8), evaluation))

    def run(*arguments):
        status, _, err = grm("train", "--device", "cpu", *arguments)
        return status, err

    return run


def test_trains_and_resumes(train, tmp_path):
    status, output = train("small.yaml", "--set", "training.epochs=1")
    assert status == 0, output
    assert "after step 2: ao 0.250" in output and "finished: runs/small/weights.safetensors" in output
    assert (tmp_path / "runs/small/loss.png").exists()
    status, output = train("small.yaml", "--output", "other")
    assert status == 0 and [line["step"] for line in read_log(tmp_path / "other")] == [1, 2, 3, 4, 4]
    status, output = train("other/config.yaml", "--resume")
    assert status == 0 and "finished: other/weights.safetensors" in output
    for written in (*(tmp_path / "other").glob("*.safetensors"), tmp_path / "other/checkpoint.pt"):
        written.unlink()
    status, output = train("other/config.yaml", "--resume")
    assert status == 0 and "other: no checkpoint yet" in output and not (tmp_path / "runs/config").exists()
    status, output = train("small.yaml", "--output", "new", "--resume")
    assert status == 0 and "new: no checkpoint yet, starts from the first step" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smal.yaml",), "grm: smal.yaml: cannot be read as YAML"),
        (("grm_b265",), "grm: grm_b265: no such preset, did you mean"),
        (("small.yaml", "--set", "training.epoch=3"), "training.epoch: unknown key, did you mean 'epochs'"),
        (("small.yaml", "--set", "training.batch_size=9"), "gives 8 samples an epoch, fewer than one step takes: 9"),
        (("small.yaml", "--set", "training.pretrained=no.pth"), "no.pth: No such file or directory"),
        (("small.yaml", "--set", "training.pretrained=other.pth"), "other.pth: not a pretrained vision transformer"),
        (("small.yaml", "--output", "small.yaml"), "small.yaml"),
    ],
)
def test_bad_input_gets_one_line(train, arguments, message):
    status, output = train(*arguments)
    assert status == 1
    assert message in output and len(output.splitlines()) == 1, output


def test_a_run_is_not_overwritten(train):
    train("small.yaml")
    status, output = train("small.yaml")
    assert status == 1 and output == "grm: runs/small: holds a run already; resume it, or choose another folder\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_unfinished_run_is_no_success(train, monkeypatch, number):
    class Stopping(SquarePairs):
        def __getitem__(self, index):
            if self.epoch == 0 and index == 0:
                signal.raise_signal(number)
            return super().__getitem__(index)

    monkeypatch.setattr(commands, "_datasets", lambda config: (Stopping(8), None))
    status, output = train("small.yaml")
    assert status == 1 and "stopped after step 1; --resume goes on" in output
    status, output = train("small.yaml", "--resume", "--set", "training.epochs=2")
    assert status == 0 and "finished" in output


def test_a_signal_that_is_ignored_stays_ignored(train, monkeypatch):
    """SIGHUP, under nohup."""

    class Closed(SquarePairs):
        def __getitem__(self, index):
            signal.raise_signal(signal.SIGHUP)
            return super().__getitem__(index)

    monkeypatch.setattr(commands, "_datasets", lambda config: (Closed(8), None))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    status, output = train("small.yaml")
    assert status == 0 and "finished" in output


def test_a_device_must_be_there(train):
    status, output = train("small.yaml", "--device", "tpu")
    assert status == 1 and output == "grm: device: expected auto, cpu, cuda or cuda:NUMBER, got tpu\n"


def test_a_worker_that_fails_tells_what_was_wrong(train, monkeypatch):
    class Broken(SquarePairs):
        def __getitem__(self, index):
            raise DataError("of 20 draws 3 were broken\na/b/7.jpg: not a picture")

    monkeypatch.setattr(commands, "_datasets", lambda config: (Broken(8), None))
    status, output = train("small.yaml", "--set", "training.workers=1")
    assert status == 1
    assert output == "grm: of 20 draws 3 were broken\ngrm: a/b/7.jpg: not a picture\n"
