"""`grm train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, Preset, Settings, device_named

if TYPE_CHECKING:
    from rich.console import Console

    from ..config import Config
    from ..training.held_out import Evaluation
    from ..training.stream import EpochDataset
    from ..training.trainer import TrainingResult


def train(
    preset: Preset,
    settings: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the run; default: runs/PRESET, or where a run's own config.yaml is."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint, if there is one.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a model; under torchrun on several GPUs or machines.

    SIGTERM, SIGHUP and Ctrl-C finish the step and write a checkpoint that --resume goes on from; the third ends at
    once. The status is 0 only after the last step.
    """
    from rich.console import Console

    from ..config import load_config
    from ..training.distributed import join_processes
    from ..training.trainer import Trainer

    console = Console(stderr=True)
    folder = output or _folder_of(Path(preset))
    config = load_config(preset, settings or [])
    with join_processes(device_named(device)) as processes:
        dataset, evaluation = _datasets(config)
        trainer = Trainer(config, dataset, folder, processes, evaluate=evaluation, console=console)
        result = trainer.run(resume=resume)
    if processes.first:
        _tell(console, folder, result)
    if not result.finished:
        raise typer.Exit(1)


def _tell(console: "Console", folder: Path, result: "TrainingResult") -> None:
    for step, results in result.evaluations.items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in results.items())
        console.print(f"after step {step}: {shown}", highlight=False)
    if result.finished:
        console.print(f"finished: {folder / 'weights.safetensors'}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(f"stopped after step {result.step}; --resume goes on", highlight=False)


def _folder_of(preset: Path) -> Path:
    """Where a run goes by default. A run's own configuration means that run."""
    from ..training.log import METRICS_FILE
    from ..training.trainer import CHECKPOINT_FILE, CONFIG_FILE

    # A run that ended before its first checkpoint has a log.
    own = preset.name == CONFIG_FILE and any(
        (preset.parent / name).exists() for name in (CHECKPOINT_FILE, METRICS_FILE)
    )
    return preset.parent if own else Path("runs") / preset.stem


def _datasets(config: "Config") -> "tuple[EpochDataset, Evaluation | None]":
    """Training pairs, and the evaluation on held-out sequences if there are any."""
    from ..data import check_paths, held_out_sequences, training_pairs
    from ..tracking import Tracker
    from ..training.held_out import held_out_evaluation

    evaluates = config.training.evaluate_every > 0
    check_paths(config, config.data.train, config.data.held_out if evaluates else {})
    pairs = training_pairs(config, config.training.seed)
    sequences = held_out_sequences(config) if evaluates else []
    return pairs, held_out_evaluation(sequences, Tracker) if sequences else None
