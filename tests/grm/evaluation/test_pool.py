"""Sequences shared among processes: same results, failures that stay alone, and runs that are killed and go on."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from grm.errors import DataError
from grm.evaluation import passes
from grm.evaluation.pool import WHOLE, Part, plan_run, run_sequences
from grm.evaluation.report import compare
from grm.evaluation.restarts import with_restarts
from grm.evaluation.results import Results, RunFolder
from grm.evaluation.runner import one_pass, track_sequence
from grm.tracking import Tracker, track_together

from ..tracking.scenes import brightness_model, square_video
from . import stand_in
from .scenes import Clip
from .stand_in import Drifting, Videos, evaluate

ROOT = Path(__file__).parents[3]


def contents(folder):
    """What a run's boxes and scores are, byte for byte; times differ from run to run."""
    parts = [*Path(folder).glob("*.txt"), *Path(folder).glob("scores/*.txt")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in parts}


def test_processes_give_what_one_gives(tmp_path):
    one = evaluate(tmp_path / "one", Videos(7), 1)
    two = evaluate(tmp_path / "two", Videos(7), 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) == 14
    assert sorted(o._replace(seconds=0) for o in one) == sorted(o._replace(seconds=0) for o in two)
    assert {o.name: o.frames for o in one} == {f"video-{i}": 20 + i for i in range(7)}


def test_what_is_finished_is_not_tracked_again(tmp_path):
    first = evaluate(tmp_path / "run", Videos(4), 1)
    (tmp_path / "run" / "video-2.txt").unlink()
    tracked = []

    class Counting(Drifting):
        def initialize(self, frame, box):
            tracked.append(1)
            super().initialize(frame, box)

    run = RunFolder(tmp_path / "run", stand_in.IDENTITY)
    plan = plan_run(Videos(5), run)
    assert sorted(plan.left) == [2, 4] and plan.left[0] == 4 and plan.frames == 46
    frames = []
    outcomes = [*plan.known, *run_sequences(Videos(5), plan.left, run, lambda n: Counting(), advance=frames.append)]
    assert len(tracked) == 2 and sum(frames) == 46
    overlap = {o.name: o.overlap for o in outcomes}
    for outcome in first:
        assert overlap[outcome.name] == pytest.approx(outcome.overlap, abs=1e-4)  # boxes have four digits on disk
    assert not plan_run(Videos(5), run).left


class Failing(Videos):
    """The second has no first box, the third cannot be opened, a frame of the fourth cannot be read."""

    def __getitem__(self, number):
        video = super().__getitem__(number)
        if number == 1:
            video.boxes[0] = np.nan
        if number == 2:
            raise DataError("third.txt: missing")
        if number == 3:
            video.frame = None
        return video


class Dying(Failing):
    """And the process that reads a frame of the fifth ends at once."""

    def __getitem__(self, number):
        video = super().__getitem__(number)
        if number == 4:
            video.__class__ = Deadly
        return video


class Deadly(stand_in.Video):
    def frame(self, index):
        os._exit(7)


FAULTS = {
    "video-1": "video-1: expected a box in the first frame",
    "sequence 3": "third.txt: missing",
    "video-3": "TypeError: 'NoneType' object is not callable",
}


def test_failures_stay_alone(tmp_path):
    outcomes = evaluate(tmp_path / "run", Failing(6), 1)
    assert {o.name: o.fault for o in outcomes if o.fault} == FAULTS
    assert Results(tmp_path / "run").names == ["video-0", "video-4", "video-5"]


class Squares(Failing):
    """A bright square that wanders, in frames of a size for each; the same failures, and a frame that is none."""

    def __getitem__(self, number):
        video = super().__getitem__(number)
        corners = [(40 + (7 * i * (number + 1)) % 19, 30 + 3 * i % 11) for i in range(len(video))]
        frames = square_video(corners, 90 + 10 * number, 160 - 10 * number)
        video.boxes = np.where(np.isfinite(video.boxes), [(x, y, 16, 16) for x, y in corners], np.nan)
        if number == 5:
            frames[3] = 0
        if video.frame is not None:
            video.frame = lambda index: frames[index][: 5 if number == 5 and index == 3 else None]
        return video


def track_squares(folder, sequences=8, protocol=one_pass, **more):
    run = RunFolder(folder, stand_in.IDENTITY)
    plan = plan_run(Squares(sequences), run)
    going = run_sequences(Squares(sequences), plan.left, run, brightness_tracker, protocol=protocol, **more)
    return {outcome.name: outcome for outcome in (*plan.known, *going)}


def brightness_tracker(number):
    return Tracker(brightness_model())


@pytest.mark.parametrize("protocol", [one_pass, with_restarts])
def test_a_batch_gives_what_one_at_a_time_gives(tmp_path, protocol):
    """Files bit for bit, though frames have other sizes and sequences end at other times; failures stay alone."""
    one = track_squares(tmp_path / "one", protocol=protocol)
    frames = []
    some = track_squares(tmp_path / "some", protocol=protocol, batch=3, advance=frames.append)
    assert contents(tmp_path / "one") == contents(tmp_path / "some") and len(contents(tmp_path / "one")) == 8
    assert {o.name: o.fault for o in one.values()} == {o.name: o.fault for o in some.values()}
    faults = {name: o.fault for name, o in some.items() if o.fault}
    assert set(faults) == {*FAULTS, "video-5"} and "pixels or more each way" in faults["video-5"]
    assert sum(frames) == sum(outcome.frames for outcome in some.values())


def test_a_batch_goes_on_where_another_stopped(tmp_path):
    whole = track_squares(tmp_path / "whole", batch=4)
    run = RunFolder(tmp_path / "part", stand_in.IDENTITY)
    going = run_sequences(Squares(8), plan_run(Squares(8), run).left, run, brightness_tracker, batch=3)
    next(outcome for outcome in going if outcome.fault is None)
    going.close()
    assert len(Results(run.folder).names) == 1
    assert track_squares(run.folder, batch=4).keys() == whole.keys()
    assert contents(run.folder) == contents(tmp_path / "whole")


def test_the_time_of_a_batch_is_shared(tmp_path, monkeypatch):
    """Four frames take a second together: a quarter each, so that a run's seconds are those that it took."""
    clock = iter(range(10**6))
    monkeypatch.setattr(passes.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(Squares, "__getitem__", lambda self, number: stand_in.Video(number, 6))
    monkeypatch.setattr(stand_in.Video, "frame", lambda self, index: square_video([(60, 50)])[0])
    track_squares(tmp_path / "run", 4, batch=4)
    seconds = np.array([Results(tmp_path / "run").times(f"video-{number}")[1:, 0] for number in range(4)])
    assert (seconds == 0.25).all() and seconds.sum() == 5


@pytest.mark.slow
def test_batches_in_processes(tmp_path):
    one = track_squares(tmp_path / "one")
    two = track_squares(tmp_path / "two", batch=2, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and one.keys() == two.keys()
    assert {o.name: o.fault for o in one.values()} == {o.name: o.fault for o in two.values()}


@pytest.mark.slow
def test_a_process_that_dies(tmp_path):
    outcomes = evaluate(tmp_path / "run", Dying(7), 2)
    faults = {"video-4": "its process ended with status 7"}
    assert {o.name: o.fault for o in outcomes if o.fault} == FAULTS | faults
    assert Results(tmp_path / "run").names == ["video-0", "video-5", "video-6"]


def dies(number):
    os._exit(3)


def cannot(number):
    raise DataError("no such weights")


@pytest.mark.slow
def test_trackers_that_cannot_be_made(tmp_path):
    run = RunFolder(tmp_path / "run", stand_in.IDENTITY)
    with pytest.raises(DataError, match="no such weights"):
        list(run_sequences(Videos(4), range(4), run, cannot, processes=2))
    outcomes = list(run_sequences(Videos(4), range(4), run, dies, processes=2))
    assert [o.fault for o in outcomes] == ["not tracked: no process is left"] * 4


def test_names(tmp_path):
    class Twins(Videos):
        def __getitem__(self, number):
            video = super().__getitem__(number)
            video.name = "same"
            return video

    run = RunFolder(tmp_path / "run", stand_in.IDENTITY)
    for part in (WHOLE, Part(0, 2), Part(1, 2)):
        with pytest.raises(DataError, match="two sequences are called 'same'"):
            plan_run(Twins(2), run, part)


def test_parts_are_all_and_share_nothing(tmp_path):
    """What cannot be opened is told by the part that it belongs to."""
    run = RunFolder(tmp_path / "run", stand_in.IDENTITY)
    plans = [plan_run(Failing(7), run, Part(rank, 3)) for rank in range(3)]
    assert sorted(number for plan in plans for number in plan.left) == [0, 1, 3, 4, 5, 6]
    assert [[outcome.name for outcome in plan.known] for plan in plans] == [[], [], ["sequence 3"]]


def test_an_error_of_the_network_ends_no_run(tmp_path, monkeypatch):
    """It is told of all sequences of its batch; the others go on."""
    calls = []

    def together(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("CUDA out of memory")
        return track_together(*arguments)

    monkeypatch.setattr(passes, "track_together", together)
    found = track_squares(tmp_path / "run", batch=2)
    faults = {outcome.fault for outcome in found.values()}
    assert "RuntimeError: CUDA out of memory" in faults
    assert 2 <= sum(outcome.fault is None for outcome in found.values()) < 4 and len(found) == 8


def start(folder, count, *more):
    command = [sys.executable, "-m", "tests.grm.evaluation.stand_in", str(folder), str(count), "2", *more]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Killed, it can tell them nothing."""
    parent = start(tmp_path / "run", 400)
    while not list((tmp_path / "run").glob("*.txt")):
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(parent.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("processes are left")


@pytest.mark.slow
def test_killed_ten_times_and_resumed(tmp_path):
    """Two processes, 200 synthetic sequences, SIGKILL of all at ten random moments: the same table, bit for bit."""
    assert start(tmp_path / "whole", 200, "synthetic").wait() == 0
    rng = np.random.default_rng(0)
    finished = tmp_path / "killed" / "finished"
    for _ in range(10):
        run = start(tmp_path / "killed", 200, "synthetic")
        before = len(list(finished.glob("*.json")))
        # Once sequences are being written, at some moment after.
        while len(list(finished.glob("*.json"))) == before and run.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        assert run.poll() is None, "it was finished before it was killed ten times"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert len(list(finished.glob("*.json"))) < 200
    assert start(tmp_path / "killed", 200, "synthetic").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole") and len(contents(tmp_path / "whole")) == 400
    tables = [
        compare("synthetic", [Results(tmp_path / folder, "it")], stand_in.rendered(200), "all-frames").rows[0]
        for folder in ("whole", "killed")
    ]
    assert tables[0].score.figures == tables[1].score.figures and tables[0].score.sequences == 200


def test_no_more_than_one_result_is_kept():
    """A division of every layer in every frame of a long video would not fit in memory."""
    alive = weakref.WeakSet()

    class Result:
        box, score = np.ones(4), 0.5

    class Heavy:
        def initialize(self, frame, box):
            pass

        def track(self, frame):
            assert len(alive) <= 1
            alive.add(result := Result())
            return result

    assert len(track_sequence(Heavy(), Clip("clip", count=50)).boxes) == 50
