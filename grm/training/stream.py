"""The order of the samples: which ones make which step, on which process, however often a run was resumed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, Protocol

import numpy as np
from torch.utils.data import DataLoader, Sampler

from ..config import TrainingConfig
from ..data.sample import Sample
from ..errors import ConfigError, DataError

# What torch says where a worker finds no room for a batch: it is killed, or cannot write.
_NO_SHARED_MEMORY = ("Bus error", "out of shared memory", "torch_shm", "No space left on device (28)")
# How often a worker looks whether the training process is still there, in seconds.
_LOOK_FOR_TRAINER_S = 2.0


class EpochDataset(Protocol):
    """Training pairs: sample i of epoch e is the same whenever and wherever it is asked for."""

    def __len__(self) -> int:
        """Samples in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that samples are given of; seen by the workers of a data loader that run already."""

    def __getitem__(self, index: int) -> Sample:
        """A sample of the epoch."""


class Position(NamedTuple):
    """A forward and backward pass: the step it belongs to, and which of the step's passes, over all processes, it is.

    Passes are numbered as if the processes took turns. So one process that accumulates two passes sees the samples and
    the noise that two processes see.
    """

    step: int
    number: int

    def noise_seed(self, seed: int) -> int:
        """The seed of the noise (drop path, division) in this pass."""
        return int(np.random.SeedSequence([seed, *self]).generate_state(1, np.uint64)[0])


class Schedule(NamedTuple):
    """How epochs are cut into steps, and steps into passes."""

    epoch_steps: int
    passes: int
    config: TrainingConfig

    @property
    def steps(self) -> int:
        """The number of steps in the whole run."""
        return self.epoch_steps * self.config.epochs

    def positions(self, rank: int, processes: int, step: int) -> list[Position]:
        """The passes of a step that a process makes."""
        return [Position(step, number) for number in range(rank, self.passes, processes)]

    def indices(self, position: Position) -> range:
        """The samples of a pass, by their index in the epoch."""
        first = (position.step % self.epoch_steps * self.passes + position.number) * self.config.batch_size
        return range(first, first + self.config.batch_size)


def make_schedule(config: TrainingConfig, samples: int, processes: int) -> Schedule:
    """The schedule of a run over epochs of so many samples. What an epoch has after its last whole step is not used.

    Raises:
        ConfigError: an epoch has no whole step.

    """
    passes = processes * config.accumulate
    step_samples = passes * config.batch_size
    if samples < step_samples:
        raise ConfigError(
            f"the data set gives {samples} samples an epoch, fewer than one step takes: {step_samples} (training."
            f"batch_size {config.batch_size} x training.accumulate {config.accumulate} x {processes} processes)"
        )
    return Schedule(samples // step_samples, passes, config)


def batches(
    dataset: EpochDataset, schedule: Schedule, rank: int, processes: int, first_step: int, *, pin_memory: bool
) -> Generator[Sample, None, None]:
    """Collated batches of all passes of a process from a step on, in order, to the end of the run.

    Raises:
        DataError: raised by the data set, in a worker or not; or a worker was killed.

    """
    workers = schedule.config.workers
    passes = _Passes(schedule, rank, processes)
    loader = DataLoader(
        dataset,
        batch_sampler=passes,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_only_listen_to_trainer,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )
    try:
        try:
            for epoch in range(first_step // schedule.epoch_steps, schedule.config.epochs):
                dataset.set_epoch(epoch)
                first = epoch * schedule.epoch_steps
                passes.steps = range(max(first, first_step), first + schedule.epoch_steps)
                for batch in loader:
                    with _dead_workers_found_later() if workers else nullcontext():
                        yield batch
        finally:
            if workers:
                # A worker that died, or ends now, would be raised again: in the checkpoint that is written next.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except DataError as error:
        raise DataError(_own_message(error)) from None
    except RuntimeError as error:
        if any(sign in str(error) for sign in _NO_SHARED_MEMORY):
            raise DataError(
                "shared memory (/dev/shm) is too small for the batches of the workers: give the container more "
                "(docker run --shm-size=1g), or make samples without workers (training.workers=0)"
            ) from None
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(f"{str(error).strip().rstrip('.')}: was it killed, for want of memory?") from None
    except (ConnectionError, EOFError) as error:  # it died while it handed a batch over
        raise DataError(f"DataLoader worker gone ({error!r}): was it killed, for want of memory?") from None


@contextmanager
def _dead_workers_found_later() -> Iterator[None]:
    """torch raises the death of a worker wherever the process is, in a step or in the writing of a checkpoint. Entered
    while no batch is waited for, this leaves it to be found when the next one is.
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _own_message(error: DataError) -> str:
    """What the data set said. Of an error in a worker, torch makes the trace the message: it ends with the name of the
    class and the message.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    return str(error).rpartition(name)[2].strip()


class _Passes(Sampler):
    """The samples of every pass of a process in some steps, as `Schedule` says."""

    def __init__(self, schedule: Schedule, rank: int, processes: int):
        self.schedule, self.rank, self.processes = schedule, rank, processes
        self.steps = range(0)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for position in self.schedule.positions(self.rank, self.processes, step):
                yield list(self.schedule.indices(position))


def _only_listen_to_trainer(_worker: int) -> None:
    """What stops a run is sent to its whole process group, or to each process of a job. The training process answers
    it, and needs its workers until the step is finished: only its own SIGTERM, as it ends, is for them.
    """
    os.setpgrp()
    # A handler is not told who sent a signal, and not called while the worker waits in a library.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer, parent = multiprocessing.parent_process().pid, os.getppid()
    # The trainer may have been killed: a worker that waits for room among its batches does not see that itself.
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, _LOOK_FOR_TRAINER_S)
        if received and received.si_pid == trainer:
            break
    os._exit(0)
