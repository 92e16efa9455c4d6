"""`grm ablate`: a table from rendered video, the same one however often it was interrupted."""

import json

import pytest

from grm.evaluation import passes
from grm.model import save_weights
from grm.training.trainer import Trainer

from ..model.small import SMALL, small_model


@pytest.fixture
def ablate(tmp_path, monkeypatch, grm):
    """Runs the command on a model small enough for a test; gives its status and what it printed."""
    config = {
        "model": {**SMALL, "encoder": {**SMALL["encoder"], "depth": 2}},
        "data": {
            "train": {"it": {"kind": "synthetic", "limit": 3}},
            "synthetic": {"width": 64, "height": 64, "frames": 20, "size": [14, 18], "passers": [0, 0]},
        },
        "training": {"batch_size": 4, "workers": 0, "precision": "float32", "threads": 1, "checkpoint_every": 1},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(config))
    save_weights(small_model("encoder.depth=2"), tmp_path / "start.safetensors")
    monkeypatch.chdir(tmp_path)

    def run(folder, *more):
        options = ("--config", "small.yaml", "--weights", "start.safetensors", "--device", "cpu", "--limit", 2)
        few = ("--pairs", 8, "--rounds", 1, "--row", "one_stream", "--set", "training.checkpoint_every=1")
        return grm("ablate", "table4", *options, *few, "--output", folder, *more)

    return run


def accuracies(folder):
    values = json.loads((folder / "table.json").read_text())
    return {name: {**row, "speed": None} for name, row in values["rows"].items()}


def test_a_table_and_what_it_says_of_the_orders(ablate, tmp_path):
    (tmp_path / "paper.yaml").write_text("one_stream: {accuracy: 70}\nts: {accuracy: 71}\n")  # ts is not run
    status, out, err = ablate("it", "--seeds", 1, "--figures", "paper.yaml")
    assert status == 0, err
    assert accuracies(tmp_path / "it")["one_stream"]["paper"] == {"accuracy": 70, "frames/s": 51}
    for text in ("#2 one-stream", "#5 S or A (GRM)", "AUC - sa", "frames/s"):
        assert text in out
    assert "#5 S or A (GRM) over #2 one-stream, accuracy (abstract)" in err
    assert "2 sequences; 1 seed(s), 8 pairs each from start.safetensors" in err
    assert accuracies(tmp_path / "it")["sa"]["paper"] == {"accuracy": 73.4, "frames/s": 45}
    assert "| #2 one-stream |" in (tmp_path / "it" / "table.md").read_text()


def test_rendered_sequences_are_as_many_by_name(ablate, grm, monkeypatch):
    """--benchmark synthetic is what the small budget has without it."""
    limits = []
    monkeypatch.setattr("grm.cli.ablate._work", lambda plan, *rest: limits.append(plan.limit) or True)
    command = ("ablate", "table4", "--config", "small.yaml", "--weights", "start.safetensors", "--device", "cpu")
    for folder, more in (("one", ()), ("two", ("--benchmark", "synthetic"))):
        assert grm(*command, "--output", folder, *more)[0] == 0
    assert limits == [40, 40]


@pytest.mark.slow
def test_the_table_is_the_same_however_often_it_was_interrupted(ablate, tmp_path, monkeypatch):
    assert ablate("whole", "--seeds", 2)[0] == 0

    calls = {"step": 0, "track": 0}

    def interrupted(name, function, at):
        def call(*arguments):
            calls[name] += 1
            if calls[name] in at:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    # The second of a run's two steps, the first step of another, the second of a tracker's two sequences.
    monkeypatch.setattr(Trainer, "_make_step", interrupted("step", Trainer._make_step, (2, 4)))
    monkeypatch.setattr(passes, "_Going", interrupted("track", passes._Going, (2,)))
    statuses = [ablate("parts", "--seeds", 2)[0] for _ in range(4)]
    assert statuses == [130, 130, 130, 0]
    assert calls == {"step": 8 + 2, "track": 8 + 1}
    assert accuracies(tmp_path / "parts") == accuracies(tmp_path / "whole")
    # Once more: nothing is left to do, and what was timed is not timed again.
    before = (tmp_path / "parts" / "table.json").read_text()
    assert ablate("parts", "--seeds", 2)[0] == 0
    assert (tmp_path / "parts" / "table.json").read_text() == before
    assert calls == {"step": 10, "track": 9}


def test_mistakes_end_in_one_line(ablate, tmp_path):
    for arguments, message in (
        (("--row", "two"), "--row: expected two_stream, one_stream, ts, tsa, sa, got two"),
        (("--benchmark", "lasot"), "lasot: give --root, the folder of its data set"),
        (("--figures", "none.yaml"), "none.yaml: cannot be read as YAML"),
        (("--benchmark", "got10k-val", "--root", "nowhere"), "GOT-10k val: missing: nowhere/val"),
        (("--set", "data.train={a: {kind: folder, root: gone}}"), "a: missing: data/gone"),
        (
            ("--weights", "gone.safetensors"),
            "--weights gone.safetensors: no such file; shipped weights: nano, real, tiny",
        ),
        (("--set", "model.division.thresh=1"), "model.division.thresh: unknown key"),
        (("--set", "training.seed=7"), "training.seed: the runs of a row have their own, from 0 to 1 (--seeds)"),
    ):
        status, _, err = ablate("new", *arguments)
        assert status == 1 and message in err
        assert not (tmp_path / "new").exists()
