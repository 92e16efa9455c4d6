"""The loop from end to end in this process: what a run leaves behind, and how it ends when something goes wrong."""

import errno
import io
import json
import math
import os
import signal
import sys

import pytest
import torch
import yaml
from rich.console import Console

from grm.config import parse_config
from grm.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from grm.model import load_model
from grm.training import Processes, Trainer, progress, read_log
from grm.training.checkpoint import load_checkpoint
from grm.training.log import RunLog
from grm.training.stream import Schedule

from .pairs import SquarePairs, training_config

ALONE = Processes(0, 1, torch.device("cpu"))


def make_trainer(folder, *overrides, dataset=None, **options):
    options.setdefault("console", Console(file=io.StringIO()))
    return Trainer(training_config(*overrides), dataset or SquarePairs(20), folder, ALONE, **options)


class StopAt(SquarePairs):
    """Sends this process a signal when a sample is asked for."""

    def __init__(self, key, number=signal.SIGTERM):
        super().__init__(20)
        self.key, self.number = key, number

    def __getitem__(self, index):
        if (self.epoch, index) == self.key:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


class BreakAt(SquarePairs):
    """Raises when a sample is asked for; or gives one that is not finite."""

    def __init__(self, key, error=None):
        super().__init__(20)
        self.key, self.error = key, error

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if (self.epoch, index) != self.key:
            return sample
        if self.error:
            raise self.error
        return sample._replace(box=sample.box * math.inf)


def test_what_a_run_leaves(tmp_path):
    seen = []

    def evaluate(model, processes):
        seen.append(model.training)
        return {"ao": [0.3, 0.2][len(seen) - 1]}

    trainer = make_trainer(tmp_path / "run", "training.evaluate_every=1", evaluate=evaluate)
    result = trainer.run()
    # 20 samples are 5 steps of 4 in each of 2 epochs.
    assert result == (10, True, {5: {"ao": 0.3}, 10: {"ao": 0.2}})
    assert seen == [False, False]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    pictures = {"loss.png", "share_a.png"}
    weights = {"weights.safetensors", "best.safetensors"}
    assert names == {"config.yaml", "checkpoint.pt", "metrics.jsonl", "tensorboard"} | pictures | weights
    assert all((tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert parse_config(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())) == trainer.config

    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10, 10]
    assert [line["ao"] for line in lines if "ao" in line] == [0.3, 0.2]
    first = lines[0]
    assert first["epoch"] == 0 and first["learning_rate"] == 1e-3 and lines[-2]["learning_rate"] == pytest.approx(1e-4)
    assert first["total"] == pytest.approx(first["focal"] + 2 * first["giou"] + 5 * first["l1"])
    assert 0 <= first["share_a_2"] <= 1 and first["samples_per_s"] > 0 and 0 <= first["data_wait"] <= 1

    model = load_model(tmp_path / "run" / "weights.safetensors")
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt").state["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    best = load_model(tmp_path / "run" / "best.safetensors").state_dict()
    assert not torch.equal(best["head.size.4.weight"], state["head.size.4.weight"])


def test_the_mean_weights_are_those_of_the_run(tmp_path):
    """They are evaluated, saved and resumed; the weights that learn are others, and learn on."""
    seen = []

    def evaluate(model, processes):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"ao": 0.1 + len(seen)}

    overrides = ("training.evaluate_every=1", "training.average=0.9")
    stopped = make_trainer(tmp_path / "a", *overrides, evaluate=evaluate, dataset=StopAt((1, 6))).run()
    assert not stopped.finished
    make_trainer(tmp_path / "a", *overrides, evaluate=evaluate).run(resume=True)
    make_trainer(tmp_path / "b", *overrides, evaluate=evaluate).run()
    a, b = (load_model(tmp_path / run / "weights.safetensors").state_dict() for run in "ab")
    state = load_checkpoint(tmp_path / "b" / "checkpoint.pt").state
    for name, value in b.items():
        assert torch.equal(value, state["average"][name]) and torch.equal(value, seen[-1][name])
        assert torch.equal(value, a[name])
    assert any(not torch.equal(value, state["model"][name]) for name, value in b.items())
    (tmp_path / "b" / "weights.safetensors").unlink()
    from_checkpoint = load_model(tmp_path / "b" / "checkpoint.pt").state_dict()
    assert all(torch.equal(value, from_checkpoint[name]) for name, value in b.items())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="holds a run already"):
        make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match=r"training.seed was 0, is 1"):
        make_trainer(tmp_path, "training.seed=1").run(resume=True)
    assert make_trainer(tmp_path).run(resume=True) == (10, True, {})


@pytest.mark.parametrize("resume", [False, True])
def test_weights_without_their_checkpoint_are_not_overwritten(tmp_path, resume):
    """It is the largest file of a run, and of no use after its end."""
    make_trainer(tmp_path).run()
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match=r"holds weights.safetensors of a run without its checkpoint"):
        make_trainer(tmp_path, "training.seed=5").run(resume=resume)


def weights_of(folder):
    return load_model(folder / "weights.safetensors").state_dict()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_the_rest_gives_the_same_weights(tmp_path, number):
    make_trainer(tmp_path / "whole").run()
    stopped = make_trainer(tmp_path / "parts", dataset=StopAt((0, 6), number)).run()
    assert stopped == (2, False, {})
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt").step == 2
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert make_trainer(tmp_path / "parts").run(resume=True).finished
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    logged = [[(line["step"], line["total"]) for line in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert logged[0] == logged[1]


def test_resumed_log_forgets_what_will_be_written_again(tmp_path):
    # Killed after step 4 was logged, when the last checkpoint was of step 3: as if the log ran ahead.
    make_trainer(tmp_path, dataset=StopAt((0, 11))).run()
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 3
    left = tmp_path / ".checkpoint.pt.0123456789abcdef.tmp"  # of a process that was killed while it wrote
    left.write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epoch": 0, "total": 123}\n{"step": 5, "epo')
    make_trainer(tmp_path).run(resume=True)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert all(line["total"] != 123 for line in lines)
    assert not left.exists()


def test_a_kill_during_an_evaluation_repeats_the_evaluation_only(tmp_path):
    def killed(model, processes):
        raise KeyboardInterrupt

    overrides = "training.evaluate_every=1"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, overrides, evaluate=killed).run()
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 5
    result = make_trainer(tmp_path, overrides, evaluate=lambda model, processes: {"ao": 0.1}).run(resume=True)
    assert result.evaluations == {5: {"ao": 0.1}, 10: {"ao": 0.1}}


def test_what_was_best_of_other_held_out_video_is_forgotten(tmp_path):
    """Harder video, of which the best is worse than the best of what was held out before."""
    every, other = "training.evaluate_every=1", "data.held_out={it: {kind: synthetic, limit: 3}}"
    make_trainer(tmp_path, every, evaluate=lambda model, processes: {"ao": 0.9}, dataset=StopAt((1, 6))).run()
    best = (tmp_path / "best.safetensors").read_bytes()
    worse = make_trainer(tmp_path, every, other, evaluate=lambda model, processes: {"ao": 0.1})
    assert worse.run(resume=True).evaluations == {10: {"ao": 0.1}}
    assert (tmp_path / "best.safetensors").read_bytes() != best


def test_a_log_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    class FullFile:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    log = RunLog(tmp_path, 0)
    log.close()
    monkeypatch.setattr(log, "_file", FullFile())
    with pytest.raises(OSError, match=r"No space left on device: .*metrics.jsonl"):
        log.write(1, 0, {"total": 1.0})


def test_a_loss_that_is_not_finite_names_its_samples(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"step 4: total is (nan|inf).*the samples are named in .*non_finite_step_4"
    ):
        make_trainer(tmp_path, dataset=BreakAt((0, 18))).run()
    dump = json.loads((tmp_path / "non_finite_step_4_process_0.json").read_text())
    assert [s["provenance"] for s in dump["samples"]] == [f"squares epoch 0 index {i}" for i in (16, 17, 18, 19)]
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.step == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint.state["model"].values())


def test_data_that_fail_cost_no_step(tmp_path):
    with pytest.raises(ValueError, match="a broken image"):
        make_trainer(tmp_path, dataset=BreakAt((1, 0), ValueError("a broken image"))).run()
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 5


def test_data_that_fail_on_another_process_cost_no_step_either(tmp_path):
    class Told(Processes):
        def any(self, flag):
            return flag or next(answers)

    # Asked twice a step: has anyone no data, is anyone to stop?
    answers = iter([False] * 8 + [True])
    trainer = Trainer(training_config(), SquarePairs(20), tmp_path, Told(*ALONE), console=Console(file=io.StringIO()))
    with pytest.raises(DataError, match="another process has no data"):
        trainer.run()
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 4


def test_asked_three_times_it_stops_at_once(tmp_path):
    """Twice may be one request that was passed on; a third ends an evaluation."""

    def evaluate(model, processes):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append("passed on")
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("not reached")

    seen = []
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, "training.evaluate_every=1", evaluate=evaluate).run()
    assert seen == ["passed on"]
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == 5


def test_a_bar_leaves_the_streams_alone():
    """A worker that was forked with them replaced could find their lock locked."""
    terminal = Console(file=io.StringIO(), force_terminal=True)
    schedule = Schedule(5, 1, training_config().training)
    before = sys.stdout, sys.stderr
    with progress.TrainingProgress(terminal, schedule, 0, enabled=True):
        assert (sys.stdout, sys.stderr) == before


def test_time_of_evaluations_is_not_that_of_training(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 14.0, 14.0])  # made; a pause from 2 to 10; a step reports at 14, as do the means
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now, 14.0))
    shown = progress.TrainingProgress(
        Console(file=io.StringIO()), Schedule(5, 1, training_config().training), 0, enabled=False
    )
    with shown.paused():
        pass
    shown.advance({"total": 1.0, "iou": 0.5})
    assert shown.means()["samples_per_s"] == pytest.approx(4 / 6)  # a batch of 4 in 14 - 8 seconds


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_settled_when_a_run_begins(tmp_path, monkeypatch, fast, precision):
    monkeypatch.setattr("grm.training.trainer.has_fast_bfloat16", lambda device: fast)
    make_trainer(tmp_path, "training.precision=auto", "training.epochs=1").run()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"]["precision"] == precision
    monkeypatch.setattr("grm.training.trainer.has_fast_bfloat16", lambda device: not fast)
    with pytest.raises(CheckpointError, match=f"training.precision was '{precision}', is"):
        make_trainer(tmp_path, "training.precision=auto", "training.epochs=1").run(resume=True)


def test_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        make_trainer(tmp_path, "training.threads=3", "training.epochs=1").run()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_pretrained_weights(tmp_path):
    make_trainer(tmp_path / "first").run()
    trained = weights_of(tmp_path / "first")
    path = tmp_path / "first" / "weights.safetensors"
    rate = ("training.learning_rate=1e-12", "training.encoder_learning_rate=1e-12", "training.epochs=1")
    make_trainer(tmp_path / "second", f"training.pretrained={path}", *rate).run()
    after = weights_of(tmp_path / "second")
    assert all(torch.allclose(after[n], w) for n, w in trained.items() if "norm.running" not in n and "num_" not in n)
    make_trainer(tmp_path / "anew", f"training.pretrained={path}", "training.new_division=true", *rate).run()
    anew = weights_of(tmp_path / "anew")
    new = [n for n, w in trained.items() if ".division." in n and n.endswith("weight") and not w.allclose(anew[n])]
    assert len(new) == 3 * len([n for n in trained if n.endswith("division.first.weight")]) > 0
    assert all(torch.allclose(anew[n], w) for n, w in trained.items() if n.endswith(("qkv.weight", "offset.4.weight")))
    with pytest.raises(OSError, match=r"missing\.pth"):
        make_trainer(tmp_path / "third", "training.pretrained=missing.pth").run()
    assert not (tmp_path / "third").exists()


def test_seed_decides_the_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_trainer(tmp_path / name, f"training.seed={seed}", "training.epochs=1").run()
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.size.4.weight"], c["head.size.4.weight"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.encoder.attention=separate",), "separate attention gives the division no gradient"),
        (("model.division.variant=ranked", "model.division.ratio=0.5"), "learns by supervision only"),
        (("model.encoder.stem=efficientnet_lite0",), "training.pretrained: .* null would leave them random"),
        (("training.new_division=true",), "training.new_division: expected the weights of a tracker"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.division.variant=ranked", "model.division.ratio=0.5", "training.loss.division=0.1"),
        ("model.division.variant=tsa", "training.loss.entropy=0.1"),
        ("model.division.soft=true",),
        ("model.division.variant=one_stream",),
        ("model.division.fixed={3: S}", "model.encoder.drop_path=0.1"),
        ("model.encoder.attention=masked", "training.accumulate=2"),
        ("model.encoder.stem=convolutions", "training.precision=bfloat16"),
    ],
    ids=["ranked", "tsa", "soft", "one-stream", "fixed", "masked", "convolutions"],
)
def test_every_variant_trains(tmp_path, overrides):
    make_trainer(tmp_path, *overrides, "training.epochs=1").run()
    line = read_log(tmp_path)[-1]
    shares = [name for name in line if name.startswith("share_a_")]
    assert len(shares) == (0 if "one_stream" in overrides[0] else 2 if "fixed" in overrides[0] else 3)
    assert math.isfinite(line["total"]) and line["gradient_norm"] > 0


def test_progress_is_shown(tmp_path):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    make_trainer(tmp_path / "a", "training.epochs=1", console=terminal).run()
    assert "samples/s" in terminal.file.getvalue() and "IoU" in terminal.file.getvalue()
    plain = Console(file=io.StringIO())
    make_trainer(tmp_path / "b", "training.epochs=1", console=plain).run()
    lines = plain.file.getvalue().splitlines()
    assert [line.split(" epoch")[0] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"]
