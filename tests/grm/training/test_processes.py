"""Runs in processes of their own: killed ones that go on, and two that train together."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grm.training import read_log
from grm.training.checkpoint import load_checkpoint

TIMEOUT_S = 300
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# Noise of every kind, and a checkpoint after every step, so that a kill often falls into its writing.
NOISY = ("model.encoder.drop_path=0.2", "training.workers=1", "training.checkpoint_every=1", "training.log_every=1")


def start(folder, *overrides, resume=True):
    command = [sys.executable, "-m", "tests.grm.training.run", str(folder), "resume" if resume else "new", *overrides]
    return subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, error


def steps_logged(folder):
    lines = read_log(folder)
    return lines[-1]["step"] if lines else 0


def children_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid):
    """Not a zombie either, which nobody may be there to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_after(process, folder, step, delay, number=signal.SIGKILL, target="process"):
    deadline = time.monotonic() + TIMEOUT_S
    while steps_logged(folder) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    if target == "job":
        for child in children_of(process):
            os.kill(child, number)
    (os.killpg if target == "group" else os.kill)(process.pid, number)
    return process.communicate(timeout=TIMEOUT_S)[1]


def state_of(folder):
    return load_checkpoint(folder / "checkpoint.pt").state


def assert_same_state(a, b):
    for name, tensor in a["model"].items():
        assert torch.equal(b["model"][name], tensor), name
    assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"]
    for index, moments in a["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(b["optimizer"]["state"][index][name], tensor), (index, name)


@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(tmp_path, count):
    """20 steps; killed at moments that differ from run to run, anywhere in a step or in the writing of a file."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(whole, *NOISY))
    chance = random.Random()
    kills = []
    for i in range(count):
        process = start(parts, *NOISY)
        delay = chance.uniform(0, 0.05)
        kill_after(process, parts, 2 + 14 * i // count + chance.randrange(3), delay)
        kills.append((process.returncode, steps_logged(parts), delay))
        assert process.returncode == -signal.SIGKILL, kills
    finish(start(parts, *NOISY))
    assert [line["step"] for line in read_log(parts)] == list(range(1, 21)), kills
    assert_same_state(state_of(whole), state_of(parts))


@pytest.mark.parametrize("target", ["process", "group", "job"])
def test_sigterm_from_outside_ends_the_process_well(tmp_path, target):
    """Sent to it alone, to its process group as a terminal does, or to it and its workers as job schedulers do."""
    process = start(tmp_path, *NOISY, "training.epochs=1000", resume=False)
    error = kill_after(process, tmp_path, 2, 0, signal.SIGTERM, target)
    assert process.returncode == 0, error
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == steps_logged(tmp_path) >= 2


def test_a_worker_that_is_killed_costs_no_step(tmp_path):
    """As for want of memory. The next checkpoint would have been far away."""
    long = ("training.epochs=1000", "training.workers=2", "training.log_every=1", "training.checkpoint_every=100000")
    process = start(tmp_path, *long)
    while steps_logged(tmp_path) < 3 and process.poll() is None:
        time.sleep(0.005)
    workers = [pid for pid in children_of(process) if "python" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1 and "was it killed, for want of memory?" in error, error
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == steps_logged(tmp_path) >= 3


def test_workers_end_with_a_trainer_that_is_killed(tmp_path):
    """Also those that wait until there is room for their batches."""
    process = subprocess.Popen([sys.executable, "-c", STUCK], env=ONE_THREAD, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    workers = children_of(process)
    time.sleep(1)  # for the queue to fill
    process.kill()
    process.wait()
    deadline = time.monotonic() + TIMEOUT_S
    while left := [pid for pid in workers if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


STUCK = """
import time

from grm.training.stream import batches, make_schedule
from tests.grm.training.pairs import SquarePairs, training_config


class Named(SquarePairs):
    def __getitem__(self, index):
        return super().__getitem__(index)._replace(provenance=f"{index:04}" * 1000)


config = training_config("training.workers=3", "training.batch_size=16").training
stream = batches(Named(1000), make_schedule(config, 1000, 1), 0, 1, 0, pin_memory=False)
next(stream)
print("waiting", flush=True)
time.sleep(1000)
"""

UNFINISHED = """
from grm.training.stream import batches, make_schedule
from tests.grm.training.pairs import SquarePairs, training_config

config = training_config("training.workers=2").training
stream = batches(SquarePairs(20), make_schedule(config, 20, 1), 0, 1, 0, pin_memory=False)
next(stream)
kept = [stream]
kept.append(kept)
"""


def test_workers_do_not_keep_a_process_that_ends():
    """One that keeps its stream of batches to the end, as the traceback of an error does."""
    subprocess.run([sys.executable, "-c", UNFINISHED], env=ONE_THREAD, check=True, timeout=60)


TOGETHER = ("training.epochs=1", "training.log_every=1", "training.batch_size=4", "model.encoder.drop_path=0.2")


def start_two(folder, *overrides):
    """Two processes of one run, as torchrun starts them; it finds a free port itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.grm.training.run", str(folder), "resume", *overrides]
    return subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE, text=True)


def test_two_processes_are_one_that_accumulates(tmp_path):
    """Each of the two normalises its own batch, as published: so does each pass of one that accumulates two. Samples
    and noise of the passes are the same, and gradients are averaged: (a + b) / 2 in both, exactly, so the weights agree
    to the bit. The running statistics do not: they are the first process's, who saw half of the passes.
    """
    limited = "model.division.gradient_limit=1e-5"  # that of a pass is cut, whoever makes it
    finish(start_two(tmp_path / "two", *TOGETHER, limited))
    finish(start(tmp_path / "one", *TOGETHER, limited, "training.accumulate=2"))
    two, one = (state_of(tmp_path / name)["model"] for name in ("two", "one"))
    compared = [name for name in one if "running" not in name and "num_batches" not in name]
    assert len(compared) > 100
    for name in compared:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    logs = [
        [{k: line[k] for k in ("step", "total", "gradient_norm")} for line in read_log(tmp_path / n)]
        for n in ("two", "one")
    ]
    for a, b in zip(*logs, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_two_processes_evaluate_the_same_model(tmp_path):
    """Their running statistics differ while they train."""
    finish(start_two(tmp_path, *TOGETHER, "training.evaluate_every=1"))
    assert [line["spread"] for line in read_log(tmp_path) if "spread" in line] == [0]


@pytest.mark.slow
def test_two_processes_that_accumulate_stop_together_and_go_on(tmp_path):
    overrides = (*TOGETHER, "training.accumulate=2", "training.batch_size=2", "training.epochs=3")
    finish(start_two(tmp_path / "whole", *overrides))
    process = start_two(tmp_path / "parts", *overrides)
    kill_after(process, tmp_path / "parts", 2, 0, signal.SIGTERM)
    stopped = load_checkpoint(tmp_path / "parts" / "checkpoint.pt").step
    assert 2 <= stopped < 15, stopped
    finish(start_two(tmp_path / "parts", *overrides))
    assert_same_state(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
