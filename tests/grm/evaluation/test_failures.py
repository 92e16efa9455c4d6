"""Losses of targets: where they are, of what kind, by hand-made boxes; and the picture of them."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from grm.errors import DataError
from grm.evaluation.benchmarks import find_benchmark
from grm.evaluation.failures import Failure, find_failures, list_failures, varied
from grm.evaluation.results import Results, RunFolder
from grm.evaluation.scoring import Truth
from grm.sheet import Shot, most_divided

from ..data.trees import write_folder
from ..model.small import SMALL, small_model
from ..model.test_weights import published
from .scenes import Clip, trajectory

FRAMES = 40


def losses(change=None, hidden=(), scores=None, sure=None, others=None):
    """A target that stands at (100, 100), 20 x 20, followed but for the frames in which the box is another."""
    true = np.tile([100.0, 100, 20, 20], (FRAMES, 1))
    boxes = true.copy()
    for frames, box in (change or {}).items():
        boxes[list(frames)] = box
    visible = np.ones(FRAMES, bool)
    visible[list(hidden)] = False
    truth = Truth("clip", true, visible)
    return find_failures(3, truth, boxes, scores, sure=sure, others=others)


AWAY = (200, 100, 20, 20)


def test_a_target_is_lost_with_five_frames_in_a_row():
    assert losses({range(10, 14): AWAY}) == []
    (found,) = losses({range(10, 15): AWAY})
    assert (found.number, found.sequence, found.before, found.at, found.after) == (3, "clip", 9, 10, 14)
    assert found.kind == "drift" and found.found_again == 15 and np.isnan(found.score)
    # An overlap of 20 x 5 of 20 x 35 is above 0.1 and no loss, and below 0.5: the target is not held.
    assert losses({range(10, 40): (100, 115, 20, 20)}) == []
    (found,) = losses({range(5, 10): (100, 115, 20, 20), range(10, 40): AWAY})
    assert (found.before, found.at, found.found_again) == (4, 10, None)


def test_frames_out_of_sight_do_not_count():
    (found,) = losses({range(10, 40): AWAY}, hidden=(13, 14))
    assert (found.at, found.after, found.kind) == (10, 16, "drift")
    assert losses({range(10, 15): AWAY}, hidden=(13,)) == []


def test_each_loss_after_the_target_was_held():
    found = losses({range(5, 10): AWAY, range(20, 40): AWAY})
    assert [(one.before, one.at, one.found_again) for one in found] == [(4, 5, 10), (19, 20, None)]
    assert [one.at for one in losses({range(1, 40): AWAY})] == [1]


def test_kinds():
    lost = {range(10, 40): AWAY}
    assert losses(lost, hidden=(10,))[0].kind == "occlusion" and losses(lost, hidden=(9,))[0].at == 10
    # Hidden before it was last held: that was outlived.
    assert losses(lost, hidden=(7,))[0].kind == "drift"
    for box in ((103, 103, 5, 5), (60, 60, 100, 100)):
        assert losses({range(10, 40): box})[0].kind == "size"
    # Two thirds of the small box are outside of the true one.
    assert losses({range(10, 40): (118, 103, 6, 6)})[0].kind == "drift"


def test_look_alikes():
    lost, scores = {range(10, 40): AWAY}, np.full(FRAMES, 0.9)
    scores[10:15] = 0.2, 0.2, 0.6, 0.6, 0.6
    assert [losses(lost, scores=scores, sure=sure)[0].kind for sure in (0.6, 0.61, None)] == [
        "look-alike", "drift", "drift"
    ]  # fmt: skip
    # What is known of other objects counts, and scores do not.
    for shift, kind in ((0, "look-alike"), (10, "look-alike"), (11, "drift")):
        others = np.tile([200.0 + shift, 100, 20, 20], (2, FRAMES, 1))
        others[0] = 0, 0, 5, 5
        assert losses(lost, scores=scores, sure=0.6, others=others)[0].kind == kind
    assert losses(lost, scores=scores, sure=0.1, others=np.empty((0, FRAMES, 4)))[0].kind == "drift"


def test_of_each_kind_some():
    kinds = ["drift"] * 4 + ["size", "drift", "occlusion"]
    found = [Failure(i, "", 0, 1, 5, kind, 0.5, None) for i, kind in enumerate(kinds)]
    assert [one.number for one in varied(found, 4)] == [0, 1, 4, 6]
    assert [one.number for one in varied(found, 2)] == [0, 4] and varied(found, 9) == found


def test_layers_that_show_something():
    """Not those that are all of one category."""
    division = np.full((5, 2, 2), 2, np.uint8)
    division[1], division[3, 0], division[4, 0, 0] = 1, 1, 1
    shot = Shot(np.zeros((9, 9, 3), np.uint8), None, division, np.zeros(4), np.zeros(4))
    assert most_divided([shot], [1, 2, 4, 5], 2) == [4, 5] and most_divided([shot], [2, 4], 3) == [2, 4]


def test_results_of_another_tool_are_pictured_without_division(grm, tmp_path, monkeypatch):
    """Frames with boxes alone; a table of all losses. Its score is as high there as in the clip that it holds."""
    clips = [Clip(name, 12) for name in ("a", "b, red")]
    run = RunFolder(tmp_path / "run", {"benchmark": "folder"}, {"benchmark": "folder", "tracker": "theirs"})
    for clip, shift in zip(clips, (0, 200), strict=True):
        run.write(clip, trajectory(clip, shift))
    monkeypatch.setattr("grm.evaluation.report.open_results_benchmark", lambda *args: clips)
    picture, table = tmp_path / "failures.png", tmp_path / "failures.csv"
    status, out, err = grm("failures", tmp_path / "run", "--output", picture, "--csv", table)
    assert status == 0, err
    assert "look-alike: 1" in err and "no division is shown" in err and "1 of 1 losses" in err
    assert list(csv.DictReader(table.open())) == [
        {"sequence": "b, red", "kind": "look-alike", "last held": "0", "lost": "1", "found again": "", "score": "0.75"}
    ]
    assert out.split()[-5:] == ["red", "look-alike", "0", "1", "0.75"]
    assert cv2.imread(str(picture)).std() > 20


def test_losses_of_a_published_checkpoint(grm, tmp_path):
    """Its configuration is that of the run."""
    weights, run, config = tmp_path / "GRM.pth.tar", tmp_path / "run", tmp_path / "small.yaml"
    torch.save({"net": published(small_model())}, weights)
    config.write_text(json.dumps({"model": SMALL}))
    boxes = [[5, 6, 12, 12]] * 5 + [[50, 40, 12, 12]] * 15
    write_folder(tmp_path / "data" / "clip", count=20, boxes=boxes)
    named = ("--weights", weights)
    found = ("--root", tmp_path / "data", "--output", run, "--device", "cpu")
    assert grm("evaluate", "folder", *named, "--config", config, *found)[0] == 0
    status, _, err = grm("failures", run, *named, "--output", tmp_path / "a.png")
    assert status == 0 and f"weights: {weights}" in err and "1 of 1 losses" in err and "no division" not in err
    status, _, err = grm("bounds", run, *named)
    assert status == 0 or "held in all of the frames, or in none" in err


@pytest.mark.slow
def test_division_at_a_loss(grm, tmp_path):
    """Of rendered video; the tiles of the chosen layer widen the sheet."""
    run = tmp_path / "run"
    arguments = ("--limit", 4, "--set", "data.synthetic.frames=60", "--output", run, "--device", "cpu")
    assert grm("evaluate", "synthetic", "--weights", "tiny", *arguments)[0] == 0
    pictures = [tmp_path / name for name in ("one.png", "three.png")]
    assert grm("failures", run, "--weights", "tiny", "--output", pictures[0], "--layer", 4)[0] == 0
    assert grm("failures", run, "--weights", "tiny", "--output", pictures[1])[0] == 0
    one, three = (cv2.imread(str(picture)).shape for picture in pictures)
    assert one[0] == three[0] and one[1] < three[1]


def test_what_cannot_be_read_is_left_out(tmp_path):
    """Results that are too short, and of another video of that name."""
    clips = [Clip("a", 20), Clip("b", 12), Clip("c", 12)]
    run = RunFolder(tmp_path, {"benchmark": "folder"}, {"benchmark": "folder"})
    for clip, shift in zip(clips, (500, 0, 0), strict=True):
        run.write(clip, trajectory(clip, shift))
    told = []
    sequences = [clips[0], Clip("b", 13), Clip("c", 12, start=9)]
    found = list(list_failures(find_benchmark("folder"), Results(tmp_path), sequences, leave_out=told.append))
    assert [(one.number, one.sequence, one.at) for one in found] == [(0, "a", 1)]
    assert [one.rpartition(": ")[2] for one in told] == [
        "12 boxes for 13 frames", "the results are of another video of that name"
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"there is no sequence with a truth that .* can be compared on; left out"):
        list(list_failures(find_benchmark("folder"), Results(tmp_path), sequences[1:]))
