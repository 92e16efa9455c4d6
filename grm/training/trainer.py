"""The training loop: steps, checkpoints, evaluations, logs, and how a run ends."""

import json
import math
import signal
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
import yaml
from rich.console import Console

from ..config import Config
from ..data.sample import Sample
from ..errors import CheckpointError, ConfigError, DataError, NonFiniteError, shown
from ..files import locked, remove_leftovers, write_text
from ..model import GRM, load_pretrained, save_weights
from ..model.packing import has_fast_bfloat16
from .checkpoint import Checkpoint, check_resumable, load_checkpoint, save_checkpoint
from .distributed import Processes
from .held_out import Evaluation
from .log import RunLog, draw_log
from .progress import TrainingProgress
from .step import TrainingStep
from .stream import EpochDataset, Position, batches, make_schedule

#: In the folder of a run, beside `log.METRICS_FILE`.
CHECKPOINT_FILE, WEIGHTS_FILE, BEST_FILE, CONFIG_FILE = (
    "checkpoint.pt",
    "weights.safetensors",
    "best.safetensors",
    "config.yaml",
)


# A run that is asked so often stops at once. One request may be two signals: torchrun passes on what a terminal or a
# job scheduler has sent to its processes as well.
_REQUESTS_TO_STOP_AT_ONCE = 3
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class TrainingResult(NamedTuple):
    """How a run ended."""

    #: Completed steps, of this and of earlier parts of the run.
    step: int
    #: False if it was asked to stop before its last step.
    finished: bool
    #: Results of the evaluations by the number of completed steps.
    evaluations: dict[int, dict[str, float]]


class Trainer:
    """Trains a model, from the start or from a checkpoint.

    The folder of a run gets `config.yaml`, `checkpoint.pt`, `metrics.jsonl`, TensorBoard's files in `tensorboard/`,
    `weights.safetensors` and two pictures at the end, and `best.safetensors` of the best evaluation.

    Args:
        config: of the run.
        dataset: the training pairs.
        folder: of the run; is created if need be. Processes on several machines must share it.
        processes: that train together.
        evaluate: called on the model in evaluation mode, on every process; its "ao" decides which weights are the best.
        console: to print to; None: standard error.

    Raises:
        ConfigError: the configuration describes a model that cannot be trained, or the data set is smaller than a step.

    """

    def __init__(
        self,
        config: Config,
        dataset: EpochDataset,
        folder: str | Path,
        processes: Processes,
        *,
        evaluate: Evaluation | None = None,
        console: Console | None = None,
    ):
        _check_trainable(config)
        self.config = config = _with_precision(config, processes)
        self.dataset = dataset
        self.folder = Path(folder)
        self.processes = processes
        self.evaluate = evaluate if config.training.evaluate_every else None
        self.console = console or Console(stderr=True)
        self.schedule = make_schedule(config.training, len(dataset), processes.count)
        self.evaluations: dict[int, dict[str, float]] = {}
        self._step: TrainingStep
        self._log: RunLog | None = None

    def run(self, *, resume: bool = False) -> TrainingResult:
        """Trains to the end, or until SIGTERM or SIGINT: the step is finished and a checkpoint written.

        Args:
            resume: go on from the folder's checkpoint; from the start where there is none.

        Raises:
            CheckpointError: the folder holds a run already and `resume` is not set, or one that is being trained, or
                its checkpoint is broken or of another run, or one cannot be written.
            DataError: too much of the data is broken; the last checkpoint is of the step before.
            KeyboardInterrupt: it was asked to stop a third time; it ends as of its last checkpoint.
            NonFiniteError: the loss or its gradient is not finite. The last checkpoint is of before that, and a JSON
                file in the folder names the samples of the step.
            WeightsError: the pretrained weights do not fit.

        """
        busy = CheckpointError(f"{self.folder}: another process trains in it")
        with locked(self.folder, busy) if self.processes.first else nullcontext():
            return self._run(resume)

    def _run(self, resume: bool) -> TrainingResult:
        completed = self._begin(resume)
        progress = TrainingProgress(self.console, self.schedule, completed, enabled=self.processes.first)
        with progress, _StopRequest() as stop:
            try:
                finished = self._train(completed, stop, progress)
            finally:
                if self._log:
                    self._log.close()
        if self.processes.first:
            if finished:
                save_weights(self._step.result, self.folder / WEIGHTS_FILE, {"step": str(self.schedule.steps)})
            draw_log(self.folder)
        del self._step  # it keeps the group of processes alive
        return TrainingResult(progress.completed, finished, self.evaluations)

    def _begin(self, resume: bool) -> int:
        """Makes or restores everything that steps change; returns the number of completed steps."""
        training = self.config.training
        checkpoint = self._find_checkpoint(resume)
        if training.threads:
            torch.set_num_threads(training.threads)
        torch.manual_seed(training.seed)
        model = GRM(self.config.model)
        if training.pretrained and not checkpoint:
            load_pretrained(model, training.pretrained, division=not training.new_division)
        self._step = TrainingStep(model, self.config, self.processes)
        if checkpoint:
            try:
                self._step.load(checkpoint.state)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = shown(str(error).partition("\n")[0])
                raise CheckpointError(f"{self.folder / CHECKPOINT_FILE}: does not fit this model: {reason}") from None
            self.evaluations = dict(checkpoint.evaluations)
        completed = checkpoint.step if checkpoint else 0
        if not self.processes.agree(completed):
            raise CheckpointError(f"{self.folder}: the processes do not read the same checkpoint; they must share it")
        if self.processes.first:
            for name in (CHECKPOINT_FILE, WEIGHTS_FILE, BEST_FILE):
                remove_leftovers(self.folder / name)
            write_text(self.folder / CONFIG_FILE, yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False))
            self._log = RunLog(self.folder, completed)
        return completed

    def _find_checkpoint(self, resume: bool) -> Checkpoint | None:
        path = self.folder / CHECKPOINT_FILE
        if path.exists():
            if not resume:
                raise CheckpointError(f"{self.folder}: holds a run already; resume it, or choose another folder")
            checkpoint = load_checkpoint(path)
            before = check_resumable(checkpoint, self.config, self._step_samples)
            if before.data.held_out != self.config.data.held_out:
                # What was best of other held-out video says nothing of this.
                checkpoint = checkpoint._replace(evaluations={})
            return checkpoint
        for name in (WEIGHTS_FILE, BEST_FILE):
            if (self.folder / name).exists():
                raise CheckpointError(
                    f"{self.folder}: holds {name} of a run without its checkpoint; choose another folder"
                )
        if resume and self.processes.first:
            message = f"{self.folder}: no checkpoint yet, starts from the first step"
            self.console.print(message, markup=False, highlight=False, soft_wrap=True)
        return None

    def _train(self, completed: int, stop: "_StopRequest", progress: TrainingProgress) -> bool:
        training, schedule, processes = self.config.training, self.schedule, self.processes
        stream = batches(
            self.dataset,
            schedule,
            processes.rank,
            processes.count,
            completed,
            pin_memory=processes.device.type == "cuda",
        )
        if self._evaluation_due(completed):
            self._evaluate_model(completed)
        with closing(stream):
            for step in range(completed, schedule.steps):
                positions = schedule.positions(processes.rank, processes.count, step)
                with progress.waiting():
                    own = self._next_batches(stream, positions)
                metrics = self._make_step(own, positions)
                completed = step + 1
                progress.advance(metrics)
                if completed % training.log_every == 0 or completed == schedule.steps:
                    values = {**progress.means(), "learning_rate": self._step.optimizer.param_groups[1]["lr"]}
                    self._write_log(completed, values)
                # Agreed on, as a process that stops alone would leave the others waiting for its gradients.
                stopped = processes.any(stop.requested)
                with progress.paused():
                    due = self._evaluation_due(completed)
                    if stopped or due or completed % training.checkpoint_every == 0 or completed == schedule.steps:
                        self._save(completed)
                    if stopped and completed < schedule.steps:
                        return False
                    if due:
                        self._evaluate_model(completed)
        return True

    def _next_batches(self, stream: Iterator[Sample], positions: list[Position]) -> list[Sample]:
        """The batches of a step. Where data fail, the weights are good: keeps them."""
        error, own = None, []
        try:
            own = [next(stream) for _ in positions]
        except Exception as raised:
            error = raised
        # All processes learn of it: the others would wait for this one's gradients, and one of them writes.
        if self.processes.any(error is not None):
            if completed := positions[0].step:
                self._save(completed)
            raise error or DataError("another process has no data; its own message says why")
        return own

    def _make_step(self, own: list[Sample], positions: list[Position]) -> dict[str, float]:
        try:
            return self._step(own, positions, self.schedule.epoch_steps)
        except NonFiniteError as error:
            step = positions[0].step
            path = self.folder / f"non_finite_step_{step}_process_{self.processes.rank}.json"
            samples = [
                {"provenance": provenance, "box": [x if math.isfinite(x) else None for x in box]}
                for batch in own
                for provenance, box in zip(batch.provenance, batch.box.tolist(), strict=True)
            ]
            write_text(path, json.dumps({"step": step, "error": str(error), "samples": samples}, indent=1) + "\n")
            raise NonFiniteError(f"step {step}: {error}; the samples are named in {path}") from None

    def _evaluation_due(self, completed: int) -> bool:
        if self.evaluate is None or not completed or completed in self.evaluations:
            return False
        interval = self.config.training.evaluate_every * self.schedule.epoch_steps
        return completed % interval == 0 or completed == self.schedule.steps

    def _evaluate_model(self, completed: int) -> None:
        model = self._step.result
        self.processes.take_from_first(model.buffers())
        results = self.evaluate(model.eval(), self.processes)
        self._step.model.train()
        best = max((r.get("ao", 0) for r in self.evaluations.values()), default=-1)
        self.evaluations[completed] = results
        if self.processes.first and results.get("ao", 0) > best:
            save_weights(model, self.folder / BEST_FILE, {"step": str(completed)})
        self._write_log(completed, results)
        self._save(completed)

    def _write_log(self, completed: int, values: dict[str, float]) -> None:
        if self._log:
            epoch = (completed - 1) // self.schedule.epoch_steps
            self._log.write(completed, epoch, values)
            if not self.console.is_terminal:
                shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
                self.console.print(f"step {completed}/{self.schedule.steps} epoch {epoch} {shown}", soft_wrap=True)

    @property
    def _step_samples(self) -> int:
        return self.schedule.passes * self.config.training.batch_size

    def _save(self, completed: int) -> None:
        if self.processes.first:
            config = self.config.model_dump_json()
            state = self._step.state()
            checkpoint = Checkpoint(completed, self._step_samples, config, state, self.evaluations)
            save_checkpoint(checkpoint, self.folder / CHECKPOINT_FILE)


class _StopRequest:
    """While entered, SIGTERM, SIGINT and SIGHUP ask the run to stop after its step instead of ending the process. Asked
    again and again, it stops at once: an evaluation may take long. SIGHUP under nohup, which ignores it, stays ignored.
    """

    def __init__(self) -> None:
        self._requests = 0

    @property
    def requested(self) -> bool:
        """Whether it was asked at least once."""
        return self._requests > 0

    def __enter__(self) -> "_StopRequest":
        self._before = {number: signal.getsignal(number) for number in _STOPPING}
        for number, handler in self._before.items():
            if number in (signal.SIGTERM, signal.SIGINT) or handler is not signal.SIG_IGN:
                signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self._requests += 1
        if self._requests == _REQUESTS_TO_STOP_AT_ONCE:
            raise KeyboardInterrupt


def _with_precision(config: Config, processes: Processes) -> Config:
    """The configuration with a precision in place of "auto", the same on all processes."""
    if config.training.precision != "auto":
        return config
    slow = processes.any(not has_fast_bfloat16(processes.device))
    training = config.training.model_copy(update={"precision": "float32" if slow else "bfloat16"})
    return config.model_copy(update={"training": training})


def _check_trainable(config: Config) -> None:
    encoder, division = config.model.encoder, config.model.division
    if encoder.stem == "efficientnet_lite0" and config.training.pretrained is None:
        raise ConfigError(
            "training.pretrained: stem efficientnet_lite0 keeps filters as they are read; null would leave them random"
        )
    if config.training.new_division and config.training.pretrained in (None, "efficientnet_lite0"):
        raise ConfigError("training.new_division: expected the weights of a tracker in training.pretrained")
    learnt = set(config.model.division_layers) - set(division.fixed)
    if learnt and division.variant == "ranked" and not config.training.loss.division:
        raise ConfigError("training.loss.division: variant ranked learns by supervision only, got weight 0")
    if learnt and division.variant != "ranked" and encoder.attention == "separate":
        raise ConfigError(
            "model.encoder.attention: separate attention gives the division no gradient; train with fused or masked"
        )
