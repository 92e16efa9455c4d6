"""What `grm track` writes, when it has its name, and what is said of odd sources."""

import csv
import json
import os
import signal

import cv2
import numpy as np
import pytest

from grm.drawing import save_figure
from grm.media.frames import open_frames
from grm.media.writer import VideoWriter
from grm.model import load_model
from grm.tracking import Tracker

from ..tracking.scenes import noise_frames
from .test_tracking import assert_one_line, damage_third, rows_of

BOX = ("--box", "40,30,20,13")


def test_tables_say_the_same(grm, weights, folder, tmp_path):
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "mot")}
    options = [x for kind, path in paths.items() for x in (f"--{kind}", path)]
    status, _, _ = grm("track", folder, "--weights", weights, *BOX, "--box", "80,50,12,25", "--rate", 10, *options)
    assert status == 0
    rows = rows_of(paths["csv"])
    assert [(row["time"], row["file"]) for row in rows[2:6:2]] == [("0.100000", "1.png"), ("0.200000", "2.png")]
    frames = json.loads(paths["json"].read_text())["frames"]
    flat = [
        (f["frame"], f["time"], f["file"], t["target"], *t["box"], t["score"]) for f in frames for t in f["targets"]
    ]
    assert flat == [
        (int(r["frame"]), float(r["time"]), r["file"], int(r["target"]), *(float(r[k]) for k in "xywh"),
         float(r["score"]) if r["score"] else None) for r in rows
    ]  # fmt: skip
    lines = list(csv.reader(paths["mot"].open()))
    for line, row in zip(lines, rows, strict=True):
        assert [int(line[0]) - 1, int(line[1]) - 1] == [int(row["frame"]), int(row["target"])]
        assert [float(x) for x in line[2:6]] == pytest.approx([float(row[k]) + (k in "xy") for k in "xywh"], abs=1e-3)
        assert line[7:] == ["-1"] * 3 and float(line[6]) == float(row["score"] or 1)


def test_tables_say_what_is_held(grm, weights, folder, tmp_path):
    """The score of these weights, which were not trained, is in every frame above one bound and below another."""
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json")}
    arguments = ("track", folder, "--weights", weights, *BOX, "--csv", paths["csv"], "--json", paths["json"])
    assert grm(*arguments)[0] == 0
    rows = rows_of(paths["csv"])
    # What stood in the first columns before there was a state stands there still.
    assert list(rows[0]) == ["frame", "target", "x", "y", "w", "h", "score", "time", "file", "state"]
    assert {row["state"] for row in rows} == {""}
    for bounds, state in (("[1e-5, 1e-5]", "held"), ("[1e-5, 1]", "uncertain"), ("[1, 1]", "lost")):
        low, high = bounds.strip("[]").split(", ")
        keys = f"model.certainty={{lost_below: {low}, held_from: {high}}}"
        assert grm(*arguments, "--set", keys)[0] == 0
        assert [row["state"] for row in rows_of(paths["csv"])] == ["", *[state] * 5]
        frames = json.loads(paths["json"].read_text())["frames"]
        assert [frame["targets"][0]["state"] for frame in frames] == [None, *[state] * 5]


def test_a_later_start(grm, weights, folder, tmp_path):
    status, _, _ = grm("track", folder, "--weights", weights, *BOX, "--csv", tmp_path / "out.csv", "--start", 2)
    rows = rows_of(tmp_path / "out.csv")
    assert status == 0 and [row["frame"] for row in rows] == ["2", "3", "4", "5"]
    tracker = Tracker.from_model(load_model(weights))
    tracker.initialize(noise_frames(6)[2], (40, 30, 20, 13))
    assert float(rows[1]["x"]) == pytest.approx(tracker.track(noise_frames(6)[3]).box[0], abs=2e-3)
    status, _, err = grm("track", folder, "--weights", weights, *BOX, "--csv", tmp_path / "out.csv", "--start", 6)
    assert status == 1
    assert_one_line(err, "frames: there is no frame 6")


def test_times_are_kept(grm, weights, tmp_path):
    times = [0, 0.04, 0.5, 0.52, 1.0, 1.25]
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for frame, time in zip(noise_frames(6), times, strict=True):
            writer.write(frame, time)
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    arguments = ("track", tmp_path / "clip.mp4", "--weights", weights, *BOX, "--output", output, "--csv", table)
    assert grm(*arguments)[0] == 0
    assert [frame.time for frame in open_frames(output).timed()] == pytest.approx(times, abs=1e-3)
    assert [float(row["time"]) for row in rows_of(table)] == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize(("output", "names"), [("drawn", "%06d.jpg"), ("drawn/%03d_x.png", "%03d_x.png")])
def test_frames_as_pictures(grm, weights, folder, tmp_path, output, names):
    """Frames with a box in them, named by the numbers that are in the table."""
    arguments = ("track", folder, "--weights", weights, *BOX, "--start", 2)
    status, _, err = grm(*arguments, "--output", tmp_path / output, "--csv", tmp_path / "out.csv")
    assert status == 0 and f"{tmp_path / 'drawn'} and {tmp_path / 'out.csv'}: 4 frames" in err
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [names % i for i in range(2, 6)]
    for number, picture in enumerate(open_frames(tmp_path / "drawn"), start=2):
        differences = np.abs(picture.astype(int) - noise_frames(6))
        assert np.median(differences, axis=(1, 2, 3)).argmin() == number and differences[number].max() > 60
    status, _, err = grm(*arguments, "--output", tmp_path / output)
    assert status == 1
    assert_one_line(err, "drawn: expected an empty or new folder")


def test_pictures_of_a_run_that_failed_have_another_folder(grm, weights, folder, tmp_path):
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(b"broken")
    (tmp_path / "drawn").mkdir()
    arguments = ("track", folder, "--weights", weights, *BOX, "--output", tmp_path / "drawn")
    status, _, err = grm(*arguments)
    assert status == 1 and f"{tmp_path / 'drawn.unfinished'}: 4 frames" in err
    assert len(list((tmp_path / "drawn.unfinished").iterdir())) == 4 and not any((tmp_path / "drawn").iterdir())
    (folder / "4.png").write_bytes(whole)
    assert grm(*arguments)[0] == 0
    assert len(list((tmp_path / "drawn").iterdir())) == 6 and not (tmp_path / "drawn.unfinished").exists()


@pytest.mark.parametrize(
    ("output", "table", "message"),
    [
        ("drawn/%d%d.png", "out.csv", "expected one %d or %06d in the names"),
        ("drawn/%s.png", "out.csv", "expected one %d or %06d in the names"),
        ("drawn/%d.gif", "out.csv", "expected one %d or %06d in the names"),
        ("frames", "out.csv", "frames: expected an empty or new folder"),
        ("empty", "empty/out.csv", "empty: is read from, or written twice"),
    ],
)
def test_pictures_that_cannot_be_written(grm, weights, folder, monkeypatch, output, table, message):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    status, _, err = grm("track", "frames", "--weights", weights, *BOX, "--output", output, "--csv", table)
    assert status == 1
    assert_one_line(err, message)


def test_what_an_unfinished_run_left_can_be_read(grm, weights, folder, tmp_path):
    source = folder.rename(tmp_path / "drawn.unfinished")
    status, _, err = grm("track", source, "--weights", weights, *BOX, "--output", tmp_path / "drawn")
    assert status == 1 and len(list(source.iterdir())) == 6
    assert_one_line(err, "drawn: is read from, or written twice")


def test_damage_is_told_after_all_was_tracked(grm, weights, clip, tmp_path):
    whole = bytearray(clip.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 2000] = bytes(2000)
    clip.write_bytes(whole)
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    status, _, err = grm("track", clip, "--weights", weights, *BOX, "--output", output, "--csv", table)
    assert status == 1
    assert_one_line(err, "frames were read")
    rows = rows_of(table)
    assert rows[-1]["frame"] == "59" and len(rows) == len(list(open_frames(output)))


def test_damage_is_told_though_a_limit_ends_the_run(grm, weights, folder, tmp_path):
    damage_third(folder)
    for limit, expected in ((2, 0), (4, 1)):
        table = tmp_path / f"{limit}.csv"
        status, _, err = grm("track", folder, "--weights", weights, *BOX, "--csv", table, "--limit", limit)
        assert status == expected and len(rows_of(table)) == limit
        assert ("1 damaged of 4 images" in err) == bool(expected)


def test_a_box_that_comes_too_late_for_the_limit(grm, weights, folder, tmp_path):
    """Said before any work."""
    late = ("--box", "5,5,20,20@3", "--limit", 3)
    status, _, err = grm("track", folder, "--weights", weights, *BOX, *late, "--csv", tmp_path / "a.csv")
    assert status == 1 and not (tmp_path / "a.csv").exists()
    assert_one_line(err, "--box 5,5,20,20@3: expected a frame before 3, where --limit 3 ends")


def test_a_guessed_length_is_no_bound(grm, weights, tmp_path):
    """Matroska says how long it lasts, not how many frames it has."""
    path = tmp_path / "clip.mkv"
    with VideoWriter(path, 30) as writer:
        for number, frame in enumerate(np.tile(noise_frames(6), (4, 1, 1, 1))):
            writer.write(frame, number / 60)
    frames = open_frames(path)
    assert not frames.counted and frames.length < 24
    late = ("--box", "5,5,20,20@22")
    status, _, err = grm("track", path, "--weights", weights, *BOX, *late, "--csv", tmp_path / "a.csv")
    assert status == 0, err
    assert len(rows_of(tmp_path / "a.csv")) == 24 + 2


@pytest.mark.parametrize("name", [b"caf\xe9", b"a$\\frac$", b"$x$", "\u89c6\u9891".encode()])
def test_names_of_any_bytes(grm, weights, folder, tmp_path, name, recwarn):
    """No UTF-8, what matplotlib takes for mathematics, letters that its font lacks."""
    source = folder.rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    table, picture = tmp_path / "a.csv", tmp_path / "a.png"
    assert grm("track", source, "--weights", weights, *BOX, "--csv", table)[0] == 0
    assert len(table.read_bytes().splitlines()) == 7
    for command in (("division", "--frame", 3), ("attention", "--frame", 3)):
        status, _, err = grm(command[0], source, "--weights", weights, *BOX, *command[1:], "--output", picture)
        assert status == 0 and cv2.imread(str(picture)) is not None, err
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"before")

    class Failing:
        def savefig(self, file, **options):
            file.write(b"half")
            raise OSError(27, "File too large")

    with pytest.raises(OSError, match=r"File too large: '.*a.png'"):
        save_figure(Failing(), tmp_path / "a.png", dpi=100)
    assert (tmp_path / "a.png").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_a_fault_leaves_what_was_there(grm, weights, folder, tmp_path):
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    output.write_bytes(b"video"), table.write_bytes(b"table")
    (folder / "1.png").write_bytes(b"broken")
    status, _, _ = grm("track", folder, "--weights", weights, *BOX, "--output", output, "--csv", table)
    assert status == 1 and output.read_bytes() == b"video" and table.read_bytes() == b"table"


@pytest.mark.parametrize("name", ["out.mp4", "out.unfinished.mp4", "link.mp4"])
def test_no_name_of_what_is_read_is_written_to(grm, weights, clip, tmp_path, name):
    source = clip.rename(tmp_path / "out.unfinished.mp4")
    (tmp_path / "link.mp4").hardlink_to(source)
    before = source.read_bytes()
    status, _, err = grm("track", source, "--weights", weights, *BOX, "--output", tmp_path / name)
    assert status == 1 and source.read_bytes() == before
    assert_one_line(err, "is read from, or written twice")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_frame_is_written_leaves_as_many_rows_as_frames(
    grm,
    weights,
    folder,
    tmp_path,
    monkeypatch,
    number,
):
    class Signalled(VideoWriter):
        written = 0

        def write(self, *arguments):
            super().write(*arguments)
            self.written += 1
            if self.written == 2:
                signal.raise_signal(number)

    monkeypatch.setattr("grm.media.writer.VideoWriter", Signalled)
    arguments = ("track", folder, "--weights", weights, *BOX, "--output", tmp_path / "out.mp4")
    status, _, err = grm(*arguments, "--csv", tmp_path / "out.csv")
    assert status == 1
    assert_one_line(err, "stopped by you after 2 frames")
    assert len(rows_of(tmp_path / "out.unfinished.csv")) == 2
    assert len(list(open_frames(tmp_path / "out.unfinished.mp4"))) == 2


def test_a_camera_is_stopped_and_that_is_no_fault(grm, weights, tmp_path, monkeypatch):
    class Capture:
        def __init__(self, number):
            self.left = 4

        isOpened = release = lambda self: True  # noqa: N815
        get = lambda self, what: 25.0  # noqa: E731

        def read(self):
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
            self.left -= 1
            return True, np.ascontiguousarray(noise_frames(6)[self.left][..., ::-1])

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    status, _, err = grm("track", "0", "--weights", weights, *BOX, "--csv", tmp_path / "out.csv")
    assert status == 0 and "4 frames" in err
    assert len(rows_of(tmp_path / "out.csv")) == 4


def test_a_size_that_changes_is_an_error(grm, weights, folder, tmp_path):
    cv2.imwrite(str(folder / "3.png"), np.zeros((50, 60, 3), np.uint8))
    status, _, err = grm("track", folder, "--weights", weights, *BOX, "--csv", tmp_path / "out.csv")
    assert status == 1
    assert_one_line(err, "frame 3 has 60 x 50 pixels, expected 120 x 90 as in the first")


def test_odd_folders_are_told(grm, weights, folder, tmp_path):
    arguments = ("track", folder, "--weights", weights, *BOX, "--csv", tmp_path / "out.csv")
    assert "note" not in grm(*arguments)[2]
    (folder / "3.png").unlink()
    (folder / "9.png").symlink_to("nowhere")
    status, _, err = grm(*arguments)
    assert status == 0
    assert "1 gap(s) in the numbers of its images, the first after 2.png" in err
    assert "1 link(s) that lead nowhere, as 9.png" in err
    cv2.imwrite(str(folder / "1_mask.png"), noise_frames(1)[0])
    assert "names of 2 kinds, all of which are taken for frames: N.png, N_mask.png" in grm(*arguments)[2]


def test_corners_are_hinted_at(grm, weights, folder, tmp_path):
    arguments = ("track", folder, "--weights", weights, "--csv", tmp_path / "out.csv", "--limit", 1, "--box")
    assert "as two corners it would be --box 80,50,12,25" in grm(*arguments, "80,50,92,75")[2]
    assert "two corners" not in grm(*arguments, "40,30,60,43")[2]
    assert "two corners" not in grm(*arguments, "100,30,30,30")[2]
