"""Terminals that are closed while a command runs, and pipes that nobody reads any more: nothing is lost by it."""

import os
import signal

import pytest

from grm.media.frames import open_frames
from grm.training import read_log
from grm.training.checkpoint import load_checkpoint

from .commands import RUN, STEPS, Command

BOX = ("--box", "40,30,20,13")


class Terminal:
    """A pseudo terminal, of which we are the screen."""

    def __init__(self):
        self._screen, self._line = os.openpty()
        self.path = os.ttyname(self._line)
        self.seen = b""
        os.set_blocking(self._screen, False)

    def read(self):
        """What was shown on it so far."""
        try:
            while data := os.read(self._screen, 4096):
                self.seen += data
        except BlockingIOError:
            return self.seen

    def close(self):
        """As a user closes a window: the system sends SIGHUP to what runs in it, which can write to it no more."""
        os.close(self._line)
        os.close(self._screen)


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def long_folder(folder):
    for number in range(6, 300):
        (folder / f"{number}.png").hardlink_to(folder / f"{number % 6}.png")
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RUN)
    return path


def rows_in(table):
    return max(0, table.read_text().count("\n") - 1) if table.exists() else 0


def last_step(folder):
    return max((line["step"] for line in read_log(folder)), default=0) if folder.exists() else 0


def test_tracking_in_a_terminal_that_is_closed(terminal, weights, long_folder, tmp_path):
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    output.write_bytes(b"before"), table.write_bytes(b"before")
    unfinished = tmp_path / "out.unfinished.mp4", tmp_path / "out.unfinished.csv"
    arguments = ("track", long_folder, "--weights", weights, *BOX, "--output", output, "--csv", table)
    command = Command(terminal.path, *arguments)
    command.wait_for(lambda: b"frames/s" in terminal.read() and rows_in(unfinished[1]) > 2)
    terminal.close()
    assert command.end() == 1, terminal.seen
    assert output.read_bytes() == table.read_bytes() == b"before"
    assert 2 < rows_in(unfinished[1]) == len(list(open_frames(unfinished[0]))) < 300


@pytest.mark.slow
def test_training_in_a_terminal_that_is_closed(terminal, config, tmp_path):
    command = Command(terminal.path, "train", config, "--output", tmp_path / "run", "--set", "training.epochs=1000")
    command.wait_for(lambda: terminal.read() and last_step(tmp_path / "run") > 2)
    terminal.close()
    assert command.end() == 1, terminal.seen
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt").step == last_step(tmp_path / "run") > 2


def test_a_closed_terminal_does_not_matter_under_nohup(terminal, weights, long_folder, tmp_path):
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    arguments = ("track", long_folder, "--weights", weights, *BOX, "--output", output, "--csv", table, "--limit", 60)
    command = Command(terminal.path, *arguments, hangup=signal.SIG_IGN)
    command.wait_for(lambda: b"frames/s" in terminal.read())
    terminal.close()
    assert command.end() == 0
    assert rows_in(table) == len(list(open_frames(output))) == 60


@pytest.mark.slow
def test_training_that_nobody_listens_to(config, tmp_path):
    """As before `| head -1`."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    command = Command(tmp_path / "pipe", "train", config, "--output", tmp_path / "run")
    command.wait_for(lambda: last_step(tmp_path / "run"))
    os.close(reader)
    assert command.end() == 0
    assert last_step(tmp_path / "run") == STEPS and (tmp_path / "run" / "weights.safetensors").exists()


def test_a_full_disk_is_told(grm, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        status, _, err = grm("presets")
        assert status == 1 and err == "grm: standard output: No space left on device\n"
        monkeypatch.undo()
