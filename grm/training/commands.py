"""`grm train`."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from ..config import Config, ConfigError, load_config
from .distributed import join_processes
from .evaluation import Evaluation, held_out_evaluation
from .stream import EpochDataset
from .trainer import CHECKPOINT_FILE, CONFIG_FILE, Trainer


def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset, or path of a YAML file.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Changes the configuration: training.batch_size=16"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: runs/PRESET, or where a run's own config.yaml is.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint, if there is one.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; auto takes a GPU if there is one.")] = "auto",
) -> None:
    """Trains a model; under torchrun on several GPUs or machines.

    SIGTERM and Ctrl-C finish the step and write a checkpoint that --resume goes on from; the third ends at once.
    """
    console = Console(stderr=True)
    folder = output or _folder_of(Path(preset))
    config = load_config(preset, settings or [])
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: expected auto, cpu or cuda, got {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: cuda was asked for, but torch sees no GPU")
    with join_processes(None if device == "auto" else device) as processes:
        dataset, evaluation = _datasets(config)
        trainer = Trainer(config, dataset, folder, processes, evaluate=evaluation, console=console)
        result = trainer.run(resume=resume)
    if not processes.first:
        return
    for made, results in result.evaluations.items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in results.items())
        console.print(f"after step {made}: {shown}", highlight=False)
    if result.finished:
        console.print(f"finished: {folder / 'weights.safetensors'}", highlight=False, soft_wrap=True)
    else:
        console.print(f"stopped after step {result.step}; --resume goes on", highlight=False)


def _folder_of(preset: Path) -> Path:
    """Where a run goes by default. A run's own configuration means that run."""
    own = preset.name == CONFIG_FILE and (preset.parent / CHECKPOINT_FILE).exists()
    return preset.parent if own else Path("runs") / preset.stem


def _datasets(config: Config) -> tuple[EpochDataset, Evaluation | None]:
    """Training pairs, and the evaluation on held-out sequences if there are any."""
    from ..data import check_paths, held_out_sequences, training_pairs
    from ..tracking import Tracker

    evaluates = config.training.evaluate_every > 0
    check_paths(config, config.data.train, config.data.held_out if evaluates else {})
    pairs = training_pairs(config, config.training.seed)
    sequences = held_out_sequences(config) if evaluates else []
    return pairs, held_out_evaluation(sequences, Tracker) if sequences else None
