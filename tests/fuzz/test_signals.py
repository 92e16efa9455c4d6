"""Commands stopped at any moment: what has its name is whole, and what goes on ends as if nothing had been.

A signal comes when so much of the work is seen to be done, and a moment later.
"""

import random
import shutil
import signal
import time

import cv2
import pytest
import torch
from safetensors.torch import load_file

from grm.media.frames import open_frames
from grm.model import save_weights
from grm.training import read_log
from grm.training.checkpoint import load_checkpoint

from ..grm.cli.commands import RUN, STEPS, Command
from ..grm.model.small import small_model
from ..grm.tracking.scenes import noise_frames

SIGNALS = [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP]
often = pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.slow)])
FRAMES = 30


class Interruptions:
    """Runs a command again and again, and stops it.

    Args:
        folder: for what it prints.
        progress: how much of its work is done.
        total: what that is at the end.

    """

    def __init__(self, folder, progress, total):
        self._log, self._progress, self._total = folder / "log", progress, total
        self._chance, self._signals = random.Random(0), SIGNALS * 100
        self.ends = []

    def __call__(self, *arguments):
        """Its status and what it printed."""
        number = self._signals.pop()
        self._log.unlink(missing_ok=True)
        command = Command(self._log, *arguments)
        after = self._chance.randrange(-3, self._total)  # less than nothing: while it starts
        command.wait_for(lambda: self._progress() > after)
        time.sleep(self._chance.uniform(0, 0.05))
        command.send(number)
        status, printed = command.end(), self._log.read_text(errors="replace") if self._log.exists() else ""
        self.ends.append((number.name, after, status))
        assert "Traceback" not in printed and status in (0, 1, 130, -number), (self.ends, printed)
        return status, printed

    def check(self):
        """Not all of them came too late."""
        assert sum(status != 0 for _, _, status in self.ends) >= len(self.ends) // 3, self.ends


def finished(folder, *arguments):
    """Runs a command to its end."""
    command = Command(folder / "log", *arguments)
    assert command.end() == 0, (folder / "log").read_text()


def pictures(folder, count):
    folder.mkdir(parents=True)
    for index, frame in enumerate(noise_frames(6)):
        coded = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
        for repeat in range(count // 6):
            (folder / f"{6 * repeat + index:03}.png").write_bytes(coded)


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


@often
def test_tracking_replaces_nothing_whole_by_a_part(tmp_path, count):
    pictures(tmp_path / "frames", FRAMES)
    save_weights(small_model(), tmp_path / "small.safetensors")
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    command = ["track", tmp_path / "frames", "--box", "40,30,20,13", "--weights", tmp_path / "small.safetensors"]
    command += ["--output", output, "--csv", table]
    finished(tmp_path, *command)
    whole = table.read_bytes()
    unfinished = tmp_path / "out.unfinished.mp4", tmp_path / "out.unfinished.csv"
    interrupted = Interruptions(tmp_path, lambda: lines_of(unfinished[1]), FRAMES)
    for _ in range(count):
        output.write_bytes(b"before"), table.write_bytes(b"before")
        for path in unfinished:
            path.unlink(missing_ok=True)
        status, printed = interrupted(*command)
        if table.read_bytes() != b"before":  # the two get their names one after the other
            assert table.read_bytes() == whole
        if output.read_bytes() != b"before":
            assert len(list(open_frames(output))) == FRAMES
        if status == 1 and "stopped by you" in printed:
            rows = lines_of(unfinished[1]) - 1
            assert rows == (len(list(open_frames(unfinished[0]))) if unfinished[0].exists() else 0)
            assert output.read_bytes() == table.read_bytes() == b"before"
    interrupted.check()


@pytest.mark.slow
@pytest.mark.parametrize("count", [50])
def test_a_run_ends_with_the_same_weights(tmp_path, count):
    """It goes on after each signal, as often as it takes, and then again from the first step."""
    (tmp_path / "small.yaml").write_text(RUN)
    command = ["train", tmp_path / "small.yaml", "--device", "cpu", "--resume", "--output"]
    finished(tmp_path, *command, tmp_path / "whole")
    whole, folder = load_file(tmp_path / "whole" / "weights.safetensors"), tmp_path / "parts"
    weights, checkpoint = folder / "weights.safetensors", folder / "checkpoint.pt"
    before = 0

    def steps():
        """Those since it went on."""
        return max((line["step"] for line in read_log(folder)), default=0) - before if folder.exists() else 0

    interrupted = Interruptions(tmp_path, steps, STEPS // 2)
    for _ in range(count):
        before = load_checkpoint(checkpoint).step if checkpoint.exists() else 0
        status, printed = interrupted(*command, folder)
        if checkpoint.exists():
            assert load_checkpoint(checkpoint).step >= before
        if status == 1 and "stopped after step" in printed:
            assert f"stopped after step {load_checkpoint(checkpoint).step};" in printed
        if status == 0:
            assert_same(load_file(weights), whole)
            shutil.rmtree(folder)
    finished(tmp_path, *command, folder)
    assert_same(load_file(weights), whole)
    assert [line["step"] for line in read_log(folder)] == [*range(1, STEPS + 1)]
    interrupted.check()


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in others)


@often
def test_an_evaluation_goes_on_to_the_same_results(tmp_path, count):
    for name in "abcdef":
        pictures(tmp_path / "data" / name, 12)
        (tmp_path / "data" / name / "groundtruth.txt").write_text("40,30,20,13\n" * 12)
    save_weights(small_model(), tmp_path / "small.safetensors")
    command = ["evaluate", "folder", "--root", tmp_path / "data", "--weights", tmp_path / "small.safetensors"]
    command += ["--output"]
    finished(tmp_path, *command, tmp_path / "whole")
    folder = tmp_path / "parts"

    def results(folder):
        """Of sequences that count as finished."""
        return {path.stem: (folder / f"{path.stem}.txt").read_bytes() for path in folder.glob("finished/*.json")}

    whole = results(tmp_path / "whole")
    assert len(whole) == 6
    before = 0
    interrupted = Interruptions(tmp_path, lambda: len(list(folder.glob("finished/*.json"))) - before, 4)
    for _ in range(count):
        before = len(results(folder))
        status, _ = interrupted(*command, folder)
        found = results(folder)
        assert len(found) >= before and found.items() <= whole.items()
        if status == 0:
            assert found == whole
            shutil.rmtree(folder)
    finished(tmp_path, *command, folder)
    assert results(folder) == whole
    interrupted.check()


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_what_is_rendered_is_whole(tmp_path, count):
    """A folder, and a video that replaces another."""
    command = ["data", "render", "--set", "data.synthetic.width=80", "--set", "data.synthetic.height=64"]
    command += ["--set", "data.synthetic.size=[12,30]", "--set", f"data.synthetic.frames={FRAMES}"]
    finished(tmp_path, *command, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    folder, video = tmp_path / "out", tmp_path / "out.mp4"
    parts = tmp_path / "out.unfinished", tmp_path / "out.unfinished.mp4"
    into_folder = Interruptions(tmp_path, lambda: len(list(parts[0].glob("*.jpg"))), FRAMES)
    into_video = Interruptions(tmp_path, parts[1].exists, 1)
    for _ in range(count // 2):
        into_folder(*command, folder)
        if folder.exists():
            assert sorted(path.name for path in folder.iterdir()) == names
            assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
            shutil.rmtree(folder)
        video.write_bytes(b"before"), parts[1].unlink(missing_ok=True)
        into_video(*command, video)
        if video.read_bytes() != b"before":
            assert len(list(open_frames(video))) == FRAMES
    into_folder.check(), into_video.check()
