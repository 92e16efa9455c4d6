"""A window to watch in, by a stand-in for OpenCV's; and targets that come later."""

import os
import re
import shutil
import subprocess
import time

import cv2
import numpy as np
import pytest

from grm.media.frames import open_frames
from grm.media.writer import VideoWriter
from grm.model import load_model
from grm.tracking import Tracker

from ..tracking.scenes import noise_frames
from .commands import Command
from .test_tracking import assert_one_line, rows_of

BOX, OTHER = (40, 30, 20, 13), (80, 50, 12, 25)
GIVEN = ("--box", "40,30,20,13")


class Windows:
    """OpenCV's windows, with a user who presses a key for each time that one is asked for."""

    def __init__(self, monkeypatch, keys, drawn=()):
        self.keys, self.drawn = list(keys), list(drawn)
        self.shown, self.titles, self.open = [], [], set()
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "namedWindow", lambda name, flags: self.open.add(name))
        monkeypatch.setattr(cv2, "destroyWindow", lambda name: self.open.remove(name))
        monkeypatch.setattr(cv2, "setWindowTitle", lambda name, title: self.titles.append(title))
        monkeypatch.setattr(cv2, "imshow", lambda name, image: self.shown.append(image.copy()))
        monkeypatch.setattr(cv2, "selectROI", lambda name, image, **_: self.drawn.pop(0))
        monkeypatch.setattr(cv2, "getWindowProperty", lambda name, what: float(name in self.open))
        monkeypatch.setattr(cv2, "waitKey", self.wait)

    def wait(self, milliseconds):
        key = self.keys.pop(0) if self.keys else ""
        if key == "close":
            self.open.clear()
            return -1
        return ord(key) if key else -1


def track(grm, folder, weights, *arguments):
    return grm("track", folder, "--weights", weights, *arguments)


def expected_boxes(weights, shown):
    """Boxes of one target in frames 0 to 5, that is shown to the tracker in some."""
    tracker, boxes = Tracker.from_model(load_model(weights)), []
    for index, frame in enumerate(noise_frames(6)):
        if index in shown:
            tracker.initialize(frame, shown[index])
            boxes.append(shown[index])
        else:
            boxes.append(tracker.track(frame).box)
    return boxes


def boxes_in(rows, target):
    return [[float(row[key]) for key in "xywh"] for row in rows if row["target"] == str(target)]


def test_watching_needs_no_file_and_q_is_no_fault(grm, folder, weights, tmp_path, monkeypatch):
    windows = Windows(monkeypatch, ["", "", "q"])
    status, _, err = track(grm, folder, weights, *GIVEN, "--window")
    assert status == 0 and len(windows.shown) == 3 and not windows.open and "Traceback" not in err
    assert np.abs(windows.shown[0][..., ::-1].astype(int) - noise_frames(1)[0]).max() > 60  # a box is drawn
    assert np.median(np.abs(windows.shown[0][..., ::-1].astype(int) - noise_frames(1)[0])) == 0


@pytest.mark.parametrize("last", ["q", "\x1b", "close"])
def test_stopped_in_the_window_what_was_seen_is_written(grm, folder, weights, tmp_path, monkeypatch, last):
    Windows(monkeypatch, ["", "", last])
    table, output = tmp_path / "out.csv", tmp_path / "out.mp4"
    assert track(grm, folder, weights, *GIVEN, "--window", "--csv", table, "--output", output)[0] == 0
    assert len(rows_of(table)) == len(list(open_frames(output))) == 3


def test_a_pause_lasts_until_it_is_over(grm, folder, weights, tmp_path, monkeypatch):
    windows = Windows(monkeypatch, ["", " ", "", "", " "])
    assert track(grm, folder, weights, *GIVEN, "--window", "--csv", tmp_path / "out.csv")[0] == 0
    assert len(windows.shown) == 6 and len(windows.titles) == 6 + 3
    assert len(rows_of(tmp_path / "out.csv")) == 6


def test_a_box_is_drawn_anew(grm, folder, weights, tmp_path, monkeypatch):
    """Of the second target, in frame 2; drawing nothing in frame 4 changes nothing."""
    Windows(monkeypatch, ["", "n", "b", "", "b"], [OTHER, (0, 0, 0, 0)])
    table = tmp_path / "out.csv"
    assert track(grm, folder, weights, *GIVEN, "--box", "20,60,15,15", "--window", "--csv", table)[0] == 0
    rows = rows_of(table)
    assert np.allclose(boxes_in(rows, 0), expected_boxes(weights, {0: BOX}), atol=2e-3)
    assert np.allclose(boxes_in(rows, 1), expected_boxes(weights, {0: (20, 60, 15, 15), 2: OTHER}), atol=2e-3)
    assert [row["frame"] for row in rows if not row["score"]] == ["0", "0", "2"]


def test_the_first_box_is_drawn_in_the_window(grm, folder, weights, tmp_path, monkeypatch):
    Windows(monkeypatch, [], [BOX, (0, 0, 0, 0)])
    assert track(grm, folder, weights, "--window", "--csv", tmp_path / "out.csv")[0] == 0
    assert np.allclose(boxes_in(rows_of(tmp_path / "out.csv"), 0), expected_boxes(weights, {0: BOX}), atol=2e-3)
    status, _, err = track(grm, folder, weights, "--window")
    assert status == 1
    assert_one_line(err, "no box was drawn")


def test_opencv_without_windows_is_said(grm, folder, weights, monkeypatch):
    def absent(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", absent)
    status, _, err = track(grm, folder, weights, *GIVEN, "--window")
    assert status == 1
    assert_one_line(err, "pip uninstall opencv-python-headless, then pip install opencv-python")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    status, _, err = track(grm, folder, weights, *GIVEN, "--window")
    assert status == 1
    assert_one_line(err, "--window: there is no display")


def test_targets_that_come_later(grm, folder, weights, tmp_path):
    table, output = tmp_path / "out.csv", tmp_path / "out.mp4"
    boxes = ("--box", "80,50,12,25@3", *GIVEN, "--box", "20,60,15,15@2")
    status, _, _ = track(grm, folder, weights, *boxes, "--csv", table, "--output", output, "--show-division")
    rows = rows_of(table)
    assert status == 0 and [(row["frame"], row["target"]) for row in rows] == [
        (str(frame), str(target)) for frame in range(6) for target in range(1 + (frame >= 2) + (frame >= 3))
    ]
    for target, (begin, box) in enumerate([(0, BOX), (2, (20, 60, 15, 15)), (3, OTHER)]):
        assert np.allclose(boxes_in(rows, target), expected_from(weights, begin, box), atol=2e-3)
    frames = list(open_frames(output))
    assert len(frames) == 6  # of one size, with a place for every target from the first on


def expected_from(weights, begin, box):
    tracker, frames = Tracker.from_model(load_model(weights)), noise_frames(6)[begin:]
    tracker.initialize(frames[0], box)
    return [box, *(tracker.track(frame).box for frame in frames[1:])]


def test_it_begins_where_the_first_target_comes(grm, folder, weights, tmp_path):
    table = tmp_path / "out.csv"
    assert track(grm, folder, weights, "--box", "80,50,12,25@3", "--csv", table)[0] == 0
    assert [row["frame"] for row in rows_of(table)] == ["3", "4", "5"]
    (folder / "groundtruth.txt").write_text("1,2,3,4\nNaN,NaN,NaN,NaN\n40,30,20,13\n")
    assert track(grm, folder, weights, "--start", 2, "--csv", table)[0] == 0
    assert boxes_in(rows_of(table), 0)[0] == list(BOX)
    (folder / "groundtruth.txt").write_text("a;b\n;\n60;30;60;43;40;43;40;30\n")
    assert track(grm, folder, weights, "--start", 2, "--csv", table)[0] == 0
    assert boxes_in(rows_of(table), 0)[0] == list(BOX)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("NaN,NaN,NaN,NaN", "line 2 has no box: the target is not in that frame"),
        ("0\t0\t0\t0", "line 2 has no box"),
        ("1,2,3", "expected x, y, width, height in every line, got '1,2,3'"),
        ("", "expected a box in line 2, got 1 lines"),
    ],
)
def test_a_folder_without_the_first_box(grm, folder, weights, tmp_path, line, message):
    (folder / "groundtruth.txt").write_text(f"1,2,3,4\n{line}\n")
    status, _, err = track(grm, folder, weights, "--start", 1, "--csv", tmp_path / "out.csv")
    assert status == 1
    assert_one_line(err, message)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("80,50,12,25@6", "expected a frame from 1 to 5"),
        ("80,50,12,25@0", "expected a frame from 1 to 5"),
        ("80,50,12,25@x", "expected the number of a frame after @"),
        ("80,50,12@3", "--box 80,50,12: expected four numbers"),
        ("800,50,12,25@3", "expected it in the frame of 120 x 90"),
    ],
)
def test_later_targets_that_cannot_be(grm, folder, weights, tmp_path, box, message):
    status, _, err = track(grm, folder, weights, *GIVEN, "--box", box, "--start", 1, "--csv", tmp_path / "out.csv")
    assert status == 1
    assert_one_line(err, message)


def test_a_frame_that_never_came_is_told(grm, weights, tmp_path):
    """Matroska does not count its frames: only at the end is it known that there are no more."""
    clip, table = tmp_path / "clip.mkv", tmp_path / "out.csv"
    with VideoWriter(clip, 25) as writer:
        for frame in noise_frames(6):
            writer.write(frame)
    status, _, err = track(grm, clip, weights, *GIVEN, "--box", "80,50,12,25@9", "--csv", table)
    assert status == 1 and len(rows_of(table)) == 6
    assert_one_line(err, "--box 80,50,12,25@9: there was no such frame")


needs_windows = pytest.mark.skipif(
    "DISPLAY" not in os.environ
    or shutil.which("xdotool") is None
    or re.search(r"GUI: +NONE", cv2.getBuildInformation()) is not None,
    reason="a real window needs an X display, as Xvfb is one, OpenCV with windows, and xdotool",
)


def xdotool(*arguments):
    return subprocess.run(["xdotool", *arguments], capture_output=True, text=True).stdout.strip()


@needs_windows
@pytest.mark.parametrize("last", ["q", "Escape"])
def test_a_real_window(folder, weights, tmp_path, last):
    for number in range(6, 600):
        (folder / f"{number}.png").hardlink_to(folder / f"{number % 6}.png")
    table, log = tmp_path / "out.csv", tmp_path / "log"
    unfinished = tmp_path / "out.unfinished.csv"
    boxes = ("--box", "40,30,20,13", "--box", "80,50,12,25")
    command = Command(log, "track", folder, "--weights", weights, *boxes, "--csv", table, "--window")

    def rows():
        return unfinished.read_text().count("\n") if unfinished.exists() else 0

    def title():
        return xdotool("search", "--name", "^frames: target", "getwindowname")

    command.wait_for(lambda: rows() > 4 and title())
    window = xdotool("search", "--name", "^frames: target")
    xdotool("windowfocus", window)
    command.wait_for(lambda: xdotool("getwindowfocus") == window)
    xdotool("key", "space")
    seen = -1
    while seen != rows():  # what was on its way has come
        seen = rows()
        time.sleep(0.5)
    xdotool("key", "n")
    command.wait_for(lambda: "target 1 of 2" in title())
    assert rows() == seen
    xdotool("key", "space")
    command.wait_for(lambda: rows() > seen)
    xdotool("key", last)
    assert command.end() == 0, log.read_text()
    assert 4 < len(rows_of(table)) < 1200
