"""The progress of a run: a bar on the terminal, and the means that are logged."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .stream import Schedule


class TrainingProgress:
    """Counts steps and averages their metrics; on a terminal draws a bar.

    Args:
        console: to draw on; nothing is drawn where it is no terminal.
        schedule: of the run.
        completed: steps that are done already.
        enabled: False on all processes but the first.

    """

    def __init__(self, console: Console, schedule: Schedule, completed: int, *, enabled: bool):
        self.completed = completed
        self._samples = schedule.passes * schedule.config.batch_size
        self._epoch_steps = schedule.epoch_steps
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            MofNCompleteColumn(),
            BarColumn(20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[report]}"),
            console=console,
            disable=not (enabled and console.is_terminal),
            # What stands in for the streams has a lock. A worker that is forked while the bar is drawn would find it
            # locked for ever, at its first warning.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("training", total=schedule.steps, completed=completed, epoch=0, report="")
        self._restart()

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training: its time does not count."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def advance(self, metrics: dict[str, float]) -> None:
        """After a step, with what it returned."""
        self.completed += 1
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        means = self._means()
        shares = " ".join(f"{value:.0%}" for name, value in means.items() if name.startswith("share_a_"))
        self._bar.update(
            self._task,
            completed=self.completed,
            epoch=(self.completed - 1) // self._epoch_steps,
            report=f"loss {means['total']:.3f}  IoU {means['iou']:.3f}  A {shares or 'fixed'}  "
            f"{means['samples_per_s']:.1f} samples/s",
        )

    def means(self) -> dict[str, float]:
        """Means of the metrics since the last call; "samples_per_s" of all processes, and "data_wait", the share of
        the time in which the step had no data.
        """
        means = self._means()
        self._restart()
        return means

    def _means(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        means = {name: value / self._steps for name, value in self._sums.items()}
        return means | {"samples_per_s": self._steps * self._samples / seconds, "data_wait": self._waited / seconds}

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._steps = 0
        self._sums: dict[str, float] = {}
