"""Bounds from results, and weights that keep them."""

import numpy as np
import pytest
from safetensors import safe_open

from grm.errors import DataError
from grm.evaluation.bounds import measure_bounds
from grm.evaluation.identity import weights_hash
from grm.evaluation.report import Entry
from grm.evaluation.results import Results, RunFolder
from grm.model import load_model, reconfigure_weights, save_weights

from ..model.small import small_model
from .scenes import Clip, trajectory


def write_run(folder, model, clips, scores):
    """A run whose boxes are the true ones, with these scores of all frames after the first."""
    run = RunFolder(folder, {"benchmark": "folder", "weights": weights_hash(model)}, {"benchmark": "folder"})
    for clip, values in zip(clips, scores, strict=True):
        run.write(clip, trajectory(clip)._replace(scores=np.array([np.nan, *values])))
    return Entry("run", "folder", Results(folder))


def test_bounds_of_several_runs(tmp_path):
    """Running means of 0.9, 0.5, 0.7; 0.7, 0.7; 0.6, 0.3, 0.6: below 0.55 where the target is absent, in either run."""
    model, clips = small_model(), [Clip("a", 4, absent=(2,)), Clip("b", 3)]
    first = write_run(tmp_path / "one", model, clips, [(0.9, -13 / 30, 7 / 6), (0.7, 0.7)])
    second = write_run(tmp_path / "two", model, clips[:1], [(0.6, -0.4, 1.3)])
    found = measure_bounds(model, [(first, clips), (second, clips)])
    assert found[:3] == (6, 2, 1.0) and found.low == found.high == found.threshold == 0.6


def test_results_of_other_weights(tmp_path):
    model, clips = small_model(), [Clip("a", 4, absent=(2,))]
    entry = write_run(tmp_path / "run", model, clips, [(0.9, 0.4, 0.8)])
    model.head.load_state_dict({name: 2 * tensor for name, tensor in model.head.state_dict().items()})
    with pytest.raises(DataError, match="run: expected results of grm evaluate with these weights"):
        measure_bounds(model, [(entry, clips)])


def test_frames_after_the_last_are_left_out_and_missing_ones_told(tmp_path):
    """As of a data set that was cut or grew since."""
    model, clips = small_model(), [Clip("a", 4, absent=(2,))]
    entry = write_run(tmp_path / "run", model, clips, [(0.9, -13 / 30, 7 / 6)])
    assert measure_bounds(model, [(entry, [Clip("a", 3, absent=(2,))])])[:2] == (1, 1)
    with pytest.raises(DataError, match=r"left out: .*run: a: 4 boxes for 5 frames"):
        measure_bounds(model, [(entry, [Clip("a", 5)])])
    with pytest.raises(DataError, match=r"left out: .*run: a: the results are of another video of that name"):
        measure_bounds(model, [(entry, [Clip("a", 4, start=9)])])


def test_what_cannot_be_read_is_left_out(tmp_path):
    model, clips = small_model(), [Clip("a", 4, absent=(2,)), Clip("b", 3)]
    entry = write_run(tmp_path / "run", model, clips, [(0.9, 0.4, 0.8), (0.7, 0.7)])
    told = []
    assert measure_bounds(model, [(entry, [clips[0], Clip("b", 9)])], told.append)[:2] == (2, 1)
    assert len(told) == 1 and told[0].endswith("run: b: 3 boxes for 9 frames")


def test_a_benchmark_without_public_truth(tmp_path):
    model, clips = small_model(), [Clip("a", 4)]
    entry = write_run(tmp_path / "run", model, clips, [(0.9, 0.4, 0.8)])._replace(benchmark="trackingnet")
    with pytest.raises(DataError, match="run: TrackingNet test: its truth is not public"):
        measure_bounds(model, [(entry, clips)])


def test_nothing_between(tmp_path):
    model, clips = small_model(), [Clip("a", 4)]
    entry = write_run(tmp_path / "run", model, clips, [(0.9, 0.4, 0.8)])
    with pytest.raises(DataError, match="held in all of the frames, or in none"):
        measure_bounds(model, [(entry, clips)])


def test_weights_keep_their_tensors(tmp_path):
    """Bit for bit and in their types, with what else stands in the file."""
    import torch

    path, output = tmp_path / "half.safetensors", tmp_path / "with.safetensors"
    save_weights(small_model(), path, {"note": "mine"}, dtype=torch.float16)
    reconfigure_weights(path, output, ["model.certainty={lost_below: 0.25, held_from: 0.5}"])
    assert load_model(output).config.certainty.held_from == 0.5
    assert load_model(output).config.model_copy(update={"certainty": load_model(path).config.certainty}) == (
        load_model(path).config
    )
    with safe_open(path, "pt") as before, safe_open(output, "pt") as after:
        assert after.metadata()["note"] == "mine" and set(before.keys()) == set(after.keys())
        for name in before.keys():
            assert torch.equal(before.get_tensor(name), after.get_tensor(name))
            assert before.get_tensor(name).dtype == after.get_tensor(name).dtype
