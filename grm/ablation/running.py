"""The work of an ablation: each run trained and evaluated, all rows timed together. What is done is not done again."""

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data import check_paths, training_pairs
from ..data.sequence import Sequences
from ..errors import DataError
from ..evaluation.identity import data_settings, run_identity
from ..evaluation.pool import Part, plan_run, run_sequences
from ..evaluation.results import RunFolder
from ..evaluation.speed import FormSpeed, measure_models
from ..files import write_text
from ..model import GRM, load_model
from ..tracking.tracker import Tracker
from ..training.distributed import Processes
from ..training.trainer import CHECKPOINT_FILE, WEIGHTS_FILE, Trainer
from .plan import SPEED_FILE, Plan, Run

#: Told what begins, in a few words.
Tell = Callable[[str], object]


def check_data(plan: Plan) -> None:
    """Looks for all that is read, before anything is written or computed.

    Raises:
        DataError: paths are missing; all of those to train on are named.

    """
    for run in plan.runs:
        check_paths(run.config, run.config.data.train)
    plan.sequences()


def train(plan: Plan, processes: Processes, tell: Tell) -> bool:
    """Trains every run that has no weights yet, from its checkpoint if there is one.

    Returns:
        False if it was asked to stop (SIGTERM, SIGINT) before the last step of the last run.

    """
    for number, run in enumerate(plan.runs, start=1):
        # The first process writes them; all have to see the same.
        if not processes.any(not (run.folder / WEIGHTS_FILE).is_file()):
            continue
        tell(f"training {run.row.label}, seed {run.seed}: run {number} of {len(plan.runs)}, {run.folder}")
        pairs = training_pairs(run.config, run.config.training.seed)
        trainer = Trainer(run.config, pairs, run.folder, processes)
        result = trainer.run(resume=processes.any((run.folder / CHECKPOINT_FILE).is_file()))
        # No process goes on before the first has written the weights.
        if processes.any(not result.finished):
            return False
    return True


def evaluate(plan: Plan, processes: Processes, tell: Tell) -> None:
    """Tracks the benchmark with every run's weights; processes share the sequences.

    Raises:
        DataError: a sequence cannot be tracked, or the folder has results of other weights or other code.

    """
    sequences = plan.sequences()
    for run in plan.runs:
        model = load_model(run.folder / WEIGHTS_FILE)
        folder = _results_of(plan, run, model, processes.device)
        left = plan_run(sequences, folder, Part(processes.rank, processes.count))
        faults = [outcome for outcome in left.known if outcome.fault is not None]
        if left.left:
            tell(f"evaluating {run.row.label}, seed {run.seed}: {len(left.left)} sequences, {left.frames} frames")
        tracked = run_sequences(sequences, left.left, folder, partial(_tracker, model, processes.device))
        faults += [outcome for outcome in tracked if outcome.fault is not None]
        if processes.any(bool(faults)):
            what = f"{faults[0].name}: {faults[0].fault}" if faults else "another process says which"
            raise DataError(f"{run.results}: a sequence was not tracked: {what}")


def measure_speed(plan: Plan, device: torch.device, rounds: int, tell: Tell) -> dict[str, Any]:
    """Times a tracker of every row, one frame of each in turn; where that was done, reads what came of it.

    Args:
        plan: the ablation.
        device: to track on.
        rounds: frames of each row.
        tell: told before it begins.

    Returns:
        "where": the machine in words; "rows": of each row's name the fields of a `FormSpeed`.

    Raises:
        DataError: what was written is broken.

    """
    path = plan.folder / SPEED_FILE
    if path.is_file():
        return _read_speed(path, plan)
    tell(f"timing {len(plan.table.rows)} rows, {rounds} frames of each in turn")
    sequences: Sequences[Any] = plan.sequences()
    first = sequences[0]
    models = {row.name: load_model(plan.of_row(row)[0].folder / WEIGHTS_FILE) for row in plan.table.rows}
    speeds = measure_models(models, first.frame(0), first.boxes[0], device=device, rounds=rounds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    where = f"{name}, {torch.get_num_threads()} threads, float32, torch {torch.__version__}"
    values = {"where": where, "rounds": rounds, "rows": {speed.form: speed._asdict() for speed in speeds}}
    write_text(path, json.dumps(values, indent=1) + "\n")
    return _read_speed(path, plan)


def _read_speed(path: Path, plan: Plan) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = {row.name: FormSpeed(**values["rows"][row.name]) for row in plan.table.rows}
        return {"where": str(values["where"]), "rows": rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); delete it, and the rows are timed again") from None


def _results_of(plan: Plan, run: Run, model: GRM, device: torch.device) -> RunFolder:
    more = data_settings(plan.benchmark, plan.root, plan.rendered)
    identity = run_identity(model, plan.benchmark, device=device.type, dtype=torch.float32, settings=more)
    about = {
        "tracker": run.name,
        "benchmark": plan.benchmark,
        "root": None if plan.root is None else str(plan.root.absolute()),
        "limit": plan.limit,
    }
    return RunFolder(run.results, identity, about)


def _tracker(model: GRM, device: torch.device, _process: int) -> Tracker:
    return Tracker(model, device=device)
