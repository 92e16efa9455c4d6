"""Checkpoints of a run: written as a whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from ..config import Config
from ..errors import CheckpointError, WeightsError
from ..files import replacing
from ..model.checkpoints import read_pickled_checkpoint
from ..model.weights import RUN_FORMAT as FORMAT

#: Keys of the configuration that may change when a run is resumed, those of `data.held_out` besides; all others decide
#: what the weights become.
FREE_KEYS = frozenset(
    f"training.{key}"
    for key in (
        "workers",
        "threads",
        "compile",
        "pretrained",
        "new_division",
        "evaluate_every",
        "checkpoint_every",
        "log_every",
    )
) | {"data.root", "data.failures", "data.failure_share"}


class Checkpoint(NamedTuple):
    """A run after a number of steps. Noise needs no state: every step's is seeded by its number."""

    #: Completed steps.
    step: int
    #: Samples that each step took; a resumed run must take as many.
    step_samples: int
    #: `grm.config.Config` as JSON.
    config: str
    #: `TrainingStep.state`.
    state: dict[str, dict]
    #: Results of the evaluations so far, by the number of completed steps.
    evaluations: dict[int, dict[str, float]]


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint in place of the one at `path`, which stays as it is until the new one is on the disk.

    Raises:
        OSError: it cannot be written (disk full, say); the one at `path` is untouched.

    """
    with replacing(path) as file:
        try:
            torch.save({"format": FORMAT, **checkpoint._asdict()}, file)
        except RuntimeError as error:
            # Where writing fails, torch fails once more as it ends the file, and that hides why.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, its tensors on the CPU: as of `grm.model.checkpoints`, whatever it says.

    Raises:
        CheckpointError: not one, or a broken one.
        OSError: it cannot be read.

    """
    try:
        content = read_pickled_checkpoint(path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT or set(content) != set(Checkpoint._fields):
        raise CheckpointError(f"{path}: not a checkpoint of a training run (expected the format {FORMAT})")
    checkpoint = Checkpoint(**content)
    if not _is_plausible(checkpoint):
        raise CheckpointError(f"{path}: not a checkpoint of a training run: its values are not of the kinds expected")
    return checkpoint


def _is_plausible(checkpoint: Checkpoint) -> bool:
    """Whether all values are of the types that `Checkpoint` says."""
    numbers = all(type(n) is int and n >= 0 for n in (checkpoint.step, checkpoint.step_samples))
    sections = isinstance(checkpoint.state, dict) and all(
        isinstance(checkpoint.state.get(name), dict) for name in ("model", "optimizer", "scaler")
    )
    evaluations = isinstance(checkpoint.evaluations, dict) and all(
        isinstance(step, int)
        and isinstance(results, dict)
        and all(isinstance(v, int | float) for v in results.values())
        for step, results in checkpoint.evaluations.items()
    )
    return numbers and sections and evaluations and isinstance(checkpoint.config, str)


def check_resumable(checkpoint: Checkpoint, config: Config, step_samples: int) -> Config:
    """Checks that a run of this configuration can go on from a checkpoint.

    Returns:
        the configuration that the run had when it was saved.

    Raises:
        CheckpointError: it would become another run; names the keys and values that differ.

    """
    try:
        saved = Config.model_validate_json(checkpoint.config)
    except ValidationError as error:
        raise CheckpointError(f"the checkpoint is of another version: {error.errors()[0]['loc']}") from None
    before, now = _flat(saved.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    differences = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now} - FREE_KEYS)
        if before.get(key) != now.get(key) and not key.startswith("data.held_out")
    ]
    # A data set is drawn by its place among all.
    orders = [list(each.data.train) for each in (saved, config)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        differences.append(f"the order of data.train was {', '.join(orders[0])}, is {', '.join(orders[1])}")
    # The number of processes may change with training.accumulate, as long as their product stays.
    same_step = checkpoint.step_samples == step_samples
    differences = [d for d in differences if not (same_step and d.startswith("training.accumulate "))]
    if not same_step:
        differences.append(f"a step took {checkpoint.step_samples} samples over all processes, now {step_samples}")
    if differences:
        raise CheckpointError("this run cannot be resumed with another configuration: " + "; ".join(differences))
    return saved


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    flat = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
