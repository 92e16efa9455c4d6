"""The command line in processes that begin at once: they are forked from one in which everything is imported."""

import contextlib
import multiprocessing
import os
import signal
import stat
import sys
import time

# Imported for the processes to come, not for what is here.
import cv2  # noqa: F401
import torch
import torch._dynamo
import torch.utils.tensorboard

import grm.cli.app
import grm.cli.evaluate
import grm.data.export
import grm.evaluation.pool
import grm.evaluation.report
import grm.media.writer
import grm.training.trainer  # noqa: F401
from grm import cli

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# Seconds in which a command has to end. Those in which the whole machine is held back do not count.
PATIENCE = 60

MODEL = """
model:
  template: {size: 32, factor: 2}
  search: {size: 64, factor: 4}
  encoder: {width: 32, depth: 3, heads: 2}
  division: {hidden: [12, 6]}
  head: {channels: 16}
"""
# A run of few and short steps, of which every second one writes a checkpoint.
RUN = (
    MODEL
    + """
data:
  train: {synthetic: {kind: synthetic, limit: 1000}}
  held_out: {}
  samples_per_epoch: 16
  synthetic: {width: 80, height: 64, size: [12, 30], frames: 20}
training: {epochs: 2, batch_size: 2, workers: 1, threads: 1, evaluate_every: 0, checkpoint_every: 2, log_every: 1,
  precision: float32, milestones: [1]}
"""
)
STEPS = 16

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


class Command:
    """`grm` with arguments, in a session of its own, in which SIGINT, SIGTERM and SIGHUP do what they do by default.

    Args:
        terminal: what its three streams are: a file, a pipe, or a terminal, which then is the one that controls it.
        arguments: of the command line.
        hangup: what SIGHUP does; SIG_IGN: nothing, as under nohup.

    """

    def __init__(self, terminal, *arguments, hangup=signal.SIG_DFL):
        arguments = (os.fspath(terminal), [*map(str, arguments)], hangup)
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    def wait_for(self, condition):
        """Waits until something is so, or the process has ended."""
        while self._process.is_alive() and not condition():
            time.sleep(0.005)

    def send(self, number):
        """Sends it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):  # it may end between the question and the signal
            if self._process.is_alive():
                os.kill(self._process.pid, number)

    def end(self):
        """Its status, once it has ended."""
        for _ in range(10 * PATIENCE):
            self._process.join(0.1)
            if self._process.exitcode is not None:
                return self._process.exitcode
        self._process.kill()
        raise AssertionError(f"still there after {PATIENCE} seconds")


def _run(terminal, arguments, hangup):
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, hangup)
    os.setsid()
    is_pipe = os.path.exists(terminal) and stat.S_ISFIFO(os.stat(terminal).st_mode)
    streams = os.open(terminal, os.O_WRONLY if is_pipe else os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for stream in range(3):
        os.dup2(streams, stream)
    os.close(streams)
    torch.set_num_threads(1)
    sys.argv = ["grm", *arguments]
    cli.main()
