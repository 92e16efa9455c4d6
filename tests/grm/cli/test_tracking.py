"""The `grm` command as a user meets it: what it writes, and how it ends."""

import csv
import json
import os
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from grm.cli import selection
from grm.cli.app import app
from grm.media.frames import open_frames
from grm.media.writer import VideoWriter
from grm.model import GRM, load_model, save_weights
from grm.sheet import TRUE
from grm.tracking import Tracker

from ..model.small import small_config, small_model
from ..tracking.scenes import noise_frames

BOX = (40, 30, 20, 13)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def tracked(model, frames, boxes):
    tracker = Tracker(model)
    tracker.initialize(frames[0], boxes)
    return [tracker.track(frame) for frame in frames[1:]]


def assert_one_line(errors, message):
    line = errors.strip().splitlines()[-1]
    assert line.startswith("grm: ") and message in line
    assert "Traceback" not in errors


def test_track_writes_what_the_tracker_says(grm, weights, folder, tmp_path):
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    status, _, err = grm(
        "track", folder, "--weights", weights, "--box", "40,30,20,13", "--box", "80,50,12,25",
        "--output", output, "--csv", table,
    )  # fmt: skip
    assert status == 0 and "6 frames" in err
    rows = rows_of(table)
    assert [(row["frame"], row["target"]) for row in rows] == [(str(f), str(t)) for f in range(6) for t in (0, 1)]
    assert rows[0]["score"] == "" and float(rows[0]["x"]) == 40
    expected = tracked(small_model(), noise_frames(6), [BOX, (80, 50, 12, 25)])
    for row in rows[2:]:
        track, target = expected[int(row["frame"]) - 1], int(row["target"])
        assert [float(row[key]) for key in "xywh"] == pytest.approx(track.box[target], abs=2e-3)
        assert float(row["score"]) == pytest.approx(track.score[target], abs=1e-4)
    frames = list(open_frames(output))
    assert len(frames) == 6 and frames[0].shape == (90, 120, 3)
    assert np.abs(frames[2].astype(int) - noise_frames(6)[2]).max() > 60  # something is drawn


def test_track_a_video_and_show_the_division(grm, weights, clip, tmp_path):
    output = tmp_path / "out.mp4"
    arguments = ("track", clip, "--weights", weights, "--box", "40 30 20 13", "--output", output, "--show-division")
    assert grm(*arguments, "--layer", 2, "--layer", 4, "--limit", 5)[0] == 0
    frames = open_frames(output)
    assert frames.rate == 25
    frames = list(frames)
    assert len(frames) == 5 and frames[0].shape[1] == 120 and frames[0].shape[0] > 90 + 60


def test_first_box_of_a_folder_with_ground_truth(grm, weights, folder, tmp_path):
    (folder / "groundtruth.txt").write_text("40,30,20,13\n1,2,3,4\n")
    assert grm("track", folder, "--weights", weights, "--csv", tmp_path / "out.csv")[0] == 0
    assert [float(rows_of(tmp_path / "out.csv")[0][key]) for key in "xywh"] == list(BOX)


def test_a_folder_as_data_sets_have_it(grm, weights, folder, tmp_path):
    """Images in `img` beside the boxes, tracked as those that lie in the folder itself; nothing is written there."""
    (folder / "groundtruth.txt").write_text("40\t30\t20\t13\n")
    tables = [tmp_path / name for name in ("one.csv", "two.csv")]
    assert grm("track", folder, "--weights", weights, "--csv", tables[0])[0] == 0
    outer = tmp_path / "sequence"
    outer.mkdir()
    (folder / "groundtruth.txt").rename(outer / "groundtruth.txt")
    folder.rename(outer / "img")
    assert grm("track", outer, "--weights", weights, "--csv", tables[1])[0] == 0
    assert tables[0].read_text() == tables[1].read_text()
    status, _, err = grm("division", outer, "--weights", weights, "--output", outer / "img" / "new.png")
    assert status == 1
    assert_one_line(err, "new.png: would be one of the frames that are read")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nothing.mp4"}, "nothing.mp4: no such file or folder"),
        ({"--box": "300,10,5,5"}, "expected it in the frame of 120 x 90 pixels"),
        ({"--box": "1,2,3"}, "--box 1,2,3: expected four numbers x,y,w,h"),
        ({"--box": "1,2,3,x"}, "--box 1,2,3,x: expected four numbers"),
        ({"--box": "1e308,1e308,1e308,1e308"}, "--box 1e308,1e308,1e308,1e308: expected numbers below 1e+12"),
        ({"--box": "1,2,0,4"}, "--box 1,2,0,4: expected numbers below 1e+12 with positive width and height"),
        ({"--box": None}, "give --box x,y,w,h"),
        ({"--weights": "none.safetensors"}, "none.safetensors: no such file; shipped weights: nano, real, tiny"),
        ({"--weights": "grm_tiny"}, "grm_tiny: no such file; did you mean --config grm_tiny?"),
        ({"--weights": "/dev/null"}, "/dev/null: expected a file of weights"),
        ({"--weights": "/etc/hostname"}, "/etc/hostname: not a checkpoint of torch.save"),
        ({"--weights": "/etc/hostname", "--config": "grm_tiny"}, "/etc/hostname: not a checkpoint of torch.save"),
        ({"--weights": None, "--config": "grm_tinny"}, "did you mean 'grm_tiny'"),
        ({"--set": "model.division.treshold=0.4"}, "did you mean 'threshold'"),
        ({"--device": "tpu"}, "device: expected auto, cpu, cuda or cuda:NUMBER, got tpu"),
        ({"--device": "cpu:1"}, "device: cpu:1 was asked for, but torch sees 1 such device"),
        ({"--threads": "100000"}, "--threads: expected at most"),
        ({"--csv": None}, "nothing to write"),
        ({"--csv": "no/such/out.csv"}, "out.csv: cannot be written"),
        ({"--output": "out.xyz"}, "out.xyz: cannot be written as a video"),
        ({"--layer": "9"}, "--layer: expected a number from 1 to 4, got 9"),
        ({"--csv": "."}, "cannot be written: it is a folder"),
        ({"--device": "meta"}, "device: expected auto, cpu, cuda or cuda:NUMBER, got meta"),
        ({"--box": "1e-200,1,1e-200,1e-200"}, "expected a square root of the area from"),
        ({"--box": "0,0,1e8,1e8"}, "expected a square root of the area from"),
        ({"--box": "119.5,1,0.3,0.3"}, "its crop shows nothing of the frame"),
    ],
)
def test_bad_input_ends_in_one_line(grm, weights, folder, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    options = {"--box": "40,30,20,13", "--weights": weights, "--csv": "out.csv", **change}
    source = options.pop("source", folder)
    status, _, err = grm("track", source, *(x for pair in options.items() if pair[1] is not None for x in pair))
    assert status == 1
    assert_one_line(err, message)


def test_frames_too_small_to_track_in(grm, weights, tmp_path):
    (tmp_path / "small").mkdir()
    cv2.imwrite(str(tmp_path / "small" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    arguments = ("track", tmp_path / "small", "--weights", weights, "--box", "1,1,4,4", "--csv", tmp_path / "out.csv")
    status, _, err = grm(*arguments)
    assert status == 1
    assert_one_line(err, "10 pixels or more each way")


def test_weights_that_are_none(grm, folder, tmp_path):
    arguments = ("track", folder, "--weights", folder / "0.png", "--config", "grm_tiny", "--csv", tmp_path / "out.csv")
    status, _, err = grm(*arguments, "--box", "40,30,20,13")
    assert status == 1 and len([line for line in err.splitlines() if line.startswith("grm: ")]) == 1
    assert_one_line(err, "0.png: not a checkpoint of torch.save")


def test_graph_without_a_gpu(grm, weights, folder, tmp_path):
    arguments = ("track", folder, "--weights", weights, "--box", "40,30,20,13", "--csv", tmp_path / "out.csv")
    status, _, err = grm(*arguments, "--cuda-graph")
    assert status == 1
    assert_one_line(err, "--cuda-graph: needs a CUDA device")


def test_what_was_tracked_before_broken_weights_is_kept(grm, folder, tmp_path):
    model = small_model()
    model.encoder.norm.weight.data.fill_(3e38)  # finite, but their sums are not
    save_weights(model, tmp_path / "large.safetensors")
    table = tmp_path / "out.csv"
    status, _, err = grm(
        "track", folder, "--weights", tmp_path / "large.safetensors", "--box", "40,30,20,13", "--csv", table
    )
    assert status == 1 and len(rows_of(tmp_path / "out.unfinished.csv")) == 1
    assert_one_line(err, "frame 1: the network gave boxes that are not finite")


def test_soft_layers_are_not_fixed_or_compared(grm, folder, tmp_path):
    save_weights(small_model("division.soft=true"), tmp_path / "soft.safetensors")
    for command in ("calibrate", "speed"):
        status, _, err = grm(command, folder, "--weights", tmp_path / "soft.safetensors", "--box", "40,30,20,13")
        assert status == 1
        assert_one_line(err, "model.division.soft")


def test_one_target_where_one_is_shown(grm, weights, folder):
    boxes = ("--box", "40,30,20,13", "--box", "1,1,9,9")
    status, _, err = grm("division", folder, "--weights", weights, *boxes, "--output", folder.parent / "d.png")
    assert status == 1
    assert_one_line(err, "expected one target here, got 2")
    status, _, err = grm("division", folder, "--weights", weights, *boxes[:2], "--output", folder.parent / "d.txt")
    assert status == 1
    assert_one_line(err, "expected a picture to write, .png")


def test_unknown_options_are_named(grm, folder):
    status, _, err = grm("track", folder, "--bocks", "1,2,3,4")
    assert status == 2 and "--bocks" in err and "Traceback" not in err


@pytest.mark.parametrize("command", ["track", "track --csv", "calibrate", "speed"])
def test_what_is_read_is_not_written_over(grm, weights, clip, command):
    before, command = clip.read_bytes(), [*command.split(), "--output"][:2]
    status, _, err = grm(command[0], clip, "--weights", weights, "--box", "40,30,20,13", command[1], clip)
    assert status == 1 and clip.read_bytes() == before
    assert_one_line(err, "is read from, or written twice")


def test_ground_truth_is_not_written_over(grm, weights, folder):
    given = folder / "groundtruth.txt"
    given.write_text("40,30,20,13\n")
    status, _, err = grm("track", folder, "--weights", weights, "--csv", given)
    assert status == 1 and given.read_text() == "40,30,20,13\n"
    assert_one_line(err, "is read from, or written twice")


@pytest.mark.parametrize("arguments", [("track", "--csv", "frames/3.png"), ("division", "--output", "frames/new.png")])
def test_nothing_is_written_among_the_frames(grm, weights, folder, arguments, monkeypatch):
    monkeypatch.chdir(folder.parent)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command, option, output = arguments
    status, _, err = grm(command, folder, "--weights", weights, "--box", "40,30,20,13", option, output)
    assert status == 1 and {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert_one_line(err, f"{output}: would be one of the frames that are read")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("speed", "--cuda-graph"), "--cuda-graph: needs a CUDA device, got cpu"),
        (("speed", "frames", "--box", "0,0,1e5,1e5"), "too large or too small to be cropped"),
        (
            ("speed", "frames", "--box", "40,30,20,13", "--set", "model.encoder.backend=foo"),
            "model.encoder.backend: foo cannot serve: there is no such backend",
        ),
        (("calibrate", "frames", "--box", "40,30,20,13", "--output", "fixed.pt"), "expected a .safetensors file"),
        (("division", "frames", "--box", "40,30,20,13", "--frame", "1"), "frames: frame 1: frame: expected shape"),
        (("attention", "frames", "--box", "40,30,20,13", "--frame", "1"), "frames: frame 1: frame: expected shape"),
    ],
)
def test_bad_input_of_the_other_commands_ends_in_one_line(grm, weights, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder.parent)
    if arguments[0] in ("division", "attention"):
        cv2.imwrite(str(folder / "1.png"), np.zeros((5, 5, 3), np.uint8))
    status, _, err = grm(*arguments, "--weights", weights)
    assert status == 1
    assert_one_line(err, message)


def test_a_box_far_outside_is_drawn(grm, weights, folder, tmp_path):
    arguments = ("track", folder, "--weights", weights, "--box=-5e9,30,1e10,1e-7", "--output", tmp_path / "out.mp4")
    assert grm(*arguments)[0] == 0


def test_a_full_disk_is_named(grm, weights, folder):
    status, _, err = grm("track", folder, "--weights", weights, "--box", "40,30,20,13", "--csv", "/dev/full")
    assert status == 1
    assert_one_line(err, "/dev/full: No space left on device")


def test_what_was_tracked_before_a_fault_is_kept(grm, weights, folder, tmp_path):
    (folder / "4.png").write_bytes(b"broken")
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    arguments = ("track", folder, "--weights", weights, "--box", "40,30,20,13", "--output", output, "--csv", table)
    status, _, err = grm(*arguments)
    assert status == 1 and "4 frames" in err
    assert_one_line(err, "4.png: not an image that OpenCV reads (6 bytes)")
    assert not table.exists() and not output.exists()
    output, table = tmp_path / "out.unfinished.mp4", tmp_path / "out.unfinished.csv"
    assert len(rows_of(table)) == 4 and len(list(open_frames(output))) == 4 and f"{output} and {table}: 4" in err


def test_what_was_tracked_before_ctrl_c_is_kept(grm, weights, folder, tmp_path, monkeypatch):
    track, calls = Tracker.track, []

    def interrupted(self, frame):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return track(self, frame)

    class Closing(VideoWriter):
        def __exit__(self, *error):
            os.kill(os.getpid(), signal.SIGINT)  # pressed again
            os.kill(os.getpid(), signal.SIGTERM)
            super().__exit__(*error)

    monkeypatch.setattr(Tracker, "track", interrupted)
    monkeypatch.setattr("grm.media.writer.VideoWriter", Closing)
    output = tmp_path / "out.mp4"
    status, _, err = grm("track", folder, "--weights", weights, "--box", "40,30,20,13", "--output", output)
    assert status == 1 and len(list(open_frames(tmp_path / "out.unfinished.mp4"))) == 3 and not output.exists()
    assert_one_line(err, "stopped by you after 3 frames")


def test_new_weights_are_said_to_be_new(grm, folder, tmp_path):
    arguments = ("track", folder, "--config", "grm_tiny", "--box", "40,30,20,13", "--csv", tmp_path / "out.csv")
    status, _, err = grm(*arguments, "--limit", 2)
    assert status == 0 and "untrained" in err
    assert len(rows_of(tmp_path / "out.csv")) == 2


@pytest.mark.parametrize("command", ["division", "attention"])
def test_pictures(grm, weights, folder, tmp_path, command):
    picture = tmp_path / "picture.png"
    arguments = (command, folder, "--weights", weights, "--box", "40,30,20,13", "--output", picture)
    status, _, err = grm(*arguments, "--frame", 3)
    assert status == 0 and "frame 3" in err
    assert cv2.imread(str(picture)).std() > 20
    status, _, err = grm(*arguments, "--frame", 6)
    assert status == 1
    assert_one_line(err, "has 6 frames, there is no frame 6")


def test_division_of_several_frames(grm, weights, folder, tmp_path):
    """A band for each frame, in the order of the video, and true boxes where there is one for each frame."""
    pictures = [tmp_path / name for name in ("one.png", "two.png", "true.png")]
    arguments = ("division", folder, "--weights", weights, "--box", "40,30,20,13", "--layer", 2)
    assert grm(*arguments, "--frame", 2, "--output", pictures[0])[0] == 0
    status, _, err = grm(*arguments, "--frame", 4, "--frame", 2, "--frame", 4, "--output", pictures[1])
    assert status == 0 and err.index("frame 2, score") < err.index("frame 4, score") and err.count("score") == 2
    np.savetxt(folder / "groundtruth.txt", np.full((6, 4), 20.0), delimiter=",")
    assert grm(*arguments, "--frame", 2, "--output", pictures[2])[0] == 0
    one, two, true = (cv2.imread(str(picture)).astype(int) for picture in pictures)
    assert two.shape[0] > 1.3 * one.shape[0] and two.shape[1] == one.shape[1] and true.shape == one.shape
    green = [(np.abs(image[:-60] - TRUE[::-1]).max(-1) < 12).sum() for image in (one, true)]
    assert green[1] > green[0] + 100
    (folder / "groundtruth.txt").write_text("1,2,3,4\n\n1,2,3,4\n")
    status, _, err = grm(*arguments, "--frame", 2, "--output", pictures[0])
    assert status == 0 and "no true boxes are drawn: " in err
    status, _, err = grm(*arguments, "--frame", 2, "--frame", 6, "--output", pictures[0])
    assert status == 1
    assert_one_line(err, "has 6 frames, there is no frame 6")


def test_calibration_fixes_what_it_finds(grm, folder, tmp_path):
    model = small_model()
    model.encoder.layers[1].attention.division.third.bias.data[1] = -1e3
    model.encoder.layers[3].attention.division.third.bias.data[1] = 1e3
    save_weights(model, tmp_path / "model.safetensors")
    fixed = tmp_path / "fixed.safetensors"
    status, out, _ = grm(
        "calibrate", folder, folder, "--weights", tmp_path / "model.safetensors", "--box", "40,30,20,13",
        "--output", fixed,
    )  # fmt: skip
    assert status == 0 and "10 frames of 2 sources" in out and "Fixing them saves" in out
    assert {number: load_model(fixed).config.division.fixed[number] for number in (2, 4)} == {2: "S", 4: "A"}


def damage_third(folder):
    """Makes the pictures of a folder JPEGs, the third of them with a hole that its decoder notices."""
    for path in folder.glob("*.png"):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
        path.unlink()
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 400 :])


def test_damage_costs_no_calibration(grm, weights, folder, tmp_path):
    """Nor a picture of a frame that can be read."""
    damage_third(folder)
    given = ("--weights", weights, "--box", "40,30,20,13")
    status, out, err = grm("calibrate", folder, *given)
    assert status == 1 and "5 frames of 1 sources" in out
    assert_one_line(err, "1 damaged of 6 images, first 2.jpg")
    picture, record = tmp_path / "a.png", tmp_path / "a.json"
    assert grm("division", folder, *given, "--frame", 5, "--output", picture)[0] == 0 and picture.exists()
    options = ("--dtype", "bfloat16", "--rounds", 1, "--device", "cpu")
    status, out, err = grm("speed", folder, *given, *options, "--output", record)
    assert status == 1 and "agreement" in json.loads(record.read_text())
    assert_one_line(err, "1 damaged of 6 images, first 2.jpg")


def test_examples_fit_the_weights_that_are_taken():
    """Layers that helps and documents name without --weights are layers of the default."""
    depth = load_model().config.encoder.depth
    lines = [command.epilog or "" for command in app.registered_commands]
    lines += (Path(__file__).parents[3] / "docs" / "tracker.md").read_text().splitlines()
    named = [line for line in lines if "--layer " in line and "grm " in line and "--weights" not in line]
    named = [line for line in named if "failures" not in line]  # of whatever made the results
    layers = [int(number) for line in named for number in re.findall(r"--layer (\d+)", line)]
    assert len(layers) > 3 and max(layers) <= depth


def test_calibration_without_division(grm, folder, tmp_path):
    save_weights(GRM(small_config("division.variant=one_stream")), tmp_path / "model.safetensors")
    status, _, err = grm("calibrate", folder, "--weights", tmp_path / "model.safetensors", "--box", "40,30,20,13")
    assert status == 1
    assert_one_line(err, "one_stream divides in no layer")


def test_speed_prints_and_records(grm, weights, folder, tmp_path):
    record = tmp_path / "speed.json"
    status, out, _ = grm(
        "speed", folder, "--weights", weights, "--box", "40,30,20,13", "--rounds", 2, "--dtype", "bfloat16",
        "--fix", "{2: S}", "--output", record,
    )  # fmt: skip
    assert status == 0
    for text in ("fused, layers fixed", "two-stream", "Where the time goes", "mean IoU"):
        assert text in out
    values = json.loads(record.read_text())
    names = ["fused", "masked", "separate", "two-stream", "one-stream", "fused, layers fixed", "S or T", "S, T or A"]
    assert [form["form"] for form in values["forms"]] == names
    for form, row in (
        ("fused", "#5"),
        ("two-stream", "#1"),
        ("one-stream", "#2"),
        ("S or T", "#3"),
        ("S, T or A", "#4"),
    ):
        assert re.search(rf"{form} +{row} ", out)
    assert values["agreement"]["frames"] == 5


def test_drawn_box(monkeypatch):
    """The window's own code, driven by the mouse events that it would get."""
    import matplotlib.pyplot as plt
    from matplotlib.backend_bases import MouseEvent

    def drag(*pixels):
        figure = plt.gcf()
        figure.canvas.draw()
        to_screen = figure.axes[0].transData.transform
        events = ("button_press_event", "motion_notify_event", "button_release_event")
        for name, (x, y) in zip(events, [pixels[0], pixels[1], pixels[1]], strict=True):
            figure.canvas.callbacks.process(name, MouseEvent(name, figure.canvas, *to_screen((x, y)), button=1))

    monkeypatch.setattr(plt, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(plt, "show", lambda: drag((40, 30), (60, 43)))
    assert selection.select_box(noise_frames(1)[0]) == pytest.approx(BOX, abs=0.5)
    monkeypatch.setattr(plt, "show", lambda: None)
    with pytest.raises(ValueError, match="no box was drawn"):
        selection.select_box(noise_frames(1)[0])


def test_help_of_every_command(grm):
    for command in ((), ("track",), ("division",), ("attention",), ("calibrate",), ("speed",)):
        status, out, _ = grm(*command, "--help")
        assert status == 0 and "Usage" in out
