"""`grm evaluate`: a tracker on a benchmark."""

import os
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from .options import (
    ConfigOption,
    Device,
    Precision,
    PrecisionOption,
    Settings,
    Threads,
    Weights,
    check_threads,
    device_named,
    load,
    tell,
    use_threads,
)
from .signals import INTERRUPTED

if TYPE_CHECKING:
    import torch

    from ..evaluation.passes import Outcome
    from ..evaluation.pool import Plan
    from ..evaluation.results import RunFolder
    from ..model import GRM
    from ..tracking.tracker import Tracker

#: The benchmarks; their table needs more imports than a line of help may.
NAMES = (
    "got10k-val", "got10k-test", "lasot", "lasot-extension", "trackingnet", "avist", "nfs30", "uav123", "otb100",
    "tnl2k", "itb", "folder", "synthetic",
)  # fmt: skip
# Faults of so many sequences are printed.
_PRINTED = 20


class ProtocolName(str, Enum):
    """Which frames a sequence is divided by."""

    all_frames = "all-frames"
    valid_frames = "valid-frames"
    restarts = "restarts"


Root = Annotated[Path | None, typer.Option(metavar="FOLDER", help="The data set; synthetic sequences have none.")]
Names = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The sequences to take, one a line: NAME; of otb100, nfs30 and uav123 also NAME FIRST LAST; of uav123 "
        "also NAME FOLDER FIRST LAST.",
    ),
]


def evaluate(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help=f"One of {', '.join(NAMES)}.")],
    root: Root = None,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Put tokens with P(S) below this into A; 0: arg-max. Default: what the configuration says; of the "
            "published weights of GRM-B256 what was published for the benchmark.",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(
            metavar="PROTOCOL",
            help="Which frames count: all-frames or valid-frames; default: the benchmark's own. restarts: VOT's way, "
            "with the target shown again after each failure.",
        ),
    ] = None,
    names: Names = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="So many sequences, the first ones; synthetic: 20.")
    ] = None,
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that share the sequences, a model in each.")
    ] = 1,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Sequences that a process tracks at once, a frame of each in one run of the network. Meant for a GPU, "
            "where one frame leaves most of it idle; not tried on one.",
        ),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where results go; default: results/BENCHMARK/, a folder for each run."),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the tracker in tables.")] = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
    threads: Threads = None,
) -> None:
    """Track the sequences of a benchmark and print the table.

    Results are written sequence by sequence; an interrupted run goes on where it stopped when it is started again.
    Status 1 where a sequence failed; all others are kept. Under torchrun each process tracks its share, and grm report
    prints the table.
    """
    from ..evaluation.benchmarks import SYNTHETIC, find_benchmark, open_benchmark
    from ..evaluation.identity import data_settings, run_identity
    from ..evaluation.pool import Part, plan_run, run_sequences
    from ..evaluation.restarts import with_restarts
    from ..evaluation.results import RunFolder, identity_hash
    from ..evaluation.runner import one_pass
    from ..weights import DEFAULT

    row = find_benchmark(benchmark)
    model = _with_threshold(load(weights, config, settings), benchmark, weights, threshold)
    rendered = _synthetic(config, settings) if benchmark == SYNTHETIC else None
    if rendered is not None:
        limit = limit or 20
    sequences = open_benchmark(benchmark, root, names=names, limit=limit, synthetic=rendered)
    device = device_named(device)
    check_threads(threads)
    more = data_settings(benchmark, root, rendered)
    restarts = protocol is ProtocolName.restarts
    if restarts:
        more["protocol"] = ProtocolName.restarts.value
    if batch > 1:
        # What the network computes of a frame may differ in its last bits with what else is in the batch.
        more["batch"] = batch
    identity = run_identity(model, benchmark, device=device, dtype=dtype.dtype, settings=more)
    label = label or Path(weights or config or DEFAULT).stem
    folder = output or Path("results") / benchmark / f"{label}-{identity_hash(identity)[:8]}"
    about = {
        "tracker": label,
        "benchmark": benchmark,
        "protocol": protocol.value if protocol else row.protocol,
        "root": None if root is None else str(root.absolute()),
        "names": None if names is None else str(names.absolute()),
        "limit": limit,
    }
    run = RunFolder(folder, identity, about)
    part = Part(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    plan = plan_run(sequences, run, part)
    if processes == 1:
        use_threads(threads)
    first = processes * int(os.environ.get("LOCAL_RANK", "0"))
    each = None if processes == 1 else _threads(threads, processes)
    make = partial(make_tracker, model, device, dtype.dtype, each, first)
    found = list(plan.known)
    with _Bar(row.title, plan, found) as bar:
        try:
            going = run_sequences(
                sequences,
                plan.left,
                run,
                make,
                protocol=with_restarts if restarts else one_pass,
                batch=batch,
                processes=processes,
                advance=bar.advance,
            )
            for outcome in going:
                found.append(outcome)
                bar.show()
        except KeyboardInterrupt:
            tell(f"stopped by you: {folder} holds what is finished, and the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
    _finish(benchmark, run, sequences, about["protocol"], found, whole=part.parts == 1)


def make_tracker(
    model: "GRM", device: str, dtype: "torch.dtype", threads: int | None, first: int, number: int
) -> "Tracker":
    """The tracker of process `number`: of several GPUs each process takes the next, counted from `first`."""
    import torch

    from ..tracking.tracker import Tracker

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and torch.cuda.device_count() > 1:
        device = f"cuda:{(first + number) % torch.cuda.device_count()}"
    return Tracker(model, device=device, dtype=dtype)


def _threads(threads: int | None, processes: int) -> int:
    import torch

    return threads or max(1, torch.get_num_threads() // processes)


def _with_threshold(model: "GRM", benchmark: str, weights: str | None, threshold: float | None) -> "GRM":
    from ..evaluation.benchmarks import find_benchmark, published_threshold
    from ..model import is_published, reconfigured
    from ..weights import find_weights

    if threshold is None:
        threshold = published_threshold(find_benchmark(benchmark), model.config)
        if threshold is None or weights is None or not is_published(find_weights(weights)):
            return model
        tell(f"threshold: {threshold:g}, as published for {find_benchmark(benchmark).title}; --threshold 0 is arg-max")
    return reconfigured(model, [f"model.division.threshold={threshold or 'null'}"])


def _synthetic(config: str | None, settings: list[str] | None) -> Any:
    from ..config import load_config
    from ..data import rendering

    own = [setting for setting in settings or () if setting.startswith("data.")]
    return rendering(load_config(config or "synthetic_tiny", own))


class _Bar:
    """A bar over the frames, with frames a second and the average overlap so far."""

    def __init__(self, title: str, plan: "Plan", found: list["Outcome"]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._found, self._count = found, len(plan.known) + len(plan.left)
        self._task = self._progress.add_task(title, total=plan.frames, done="", speed="")
        self.show()

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, frames: int) -> None:
        """Counts frames that were tracked."""
        task = self._progress.tasks[self._task]
        self._progress.advance(self._task, frames)
        elapsed = task.elapsed or 0
        speed = f"{task.completed / elapsed:.0f} frames/s" if elapsed else ""
        self._progress.update(self._task, speed=speed)

    def show(self) -> None:
        """Shows the sequences that are done, and their average overlap."""
        values = [outcome.overlap for outcome in self._found if outcome.overlap == outcome.overlap]
        average = f", AO {100 * sum(values) / len(values):.1f}" if values else ""
        failed = sum(outcome.fault is not None for outcome in self._found)
        done = f"{len(self._found)} of {self._count}" + (f", {failed} failed" if failed else "") + average
        self._progress.update(self._task, done=done)


def _finish(
    benchmark: str, run: "RunFolder", sequences: Any, protocol: Any, found: list["Outcome"], *, whole: bool
) -> None:
    """Prints the table, if this process has all sequences, and what failed; status 1 if anything did."""
    from ..evaluation.benchmarks import find_benchmark
    from ..evaluation.report import compare
    from ..evaluation.results import Results
    from .report import print_table

    faults = [outcome for outcome in found if outcome.fault is not None]
    scored = True
    if len(faults) < len(found):
        if not whole:
            tell(f"grm report {run.folder} prints the table when all processes are done")
        elif find_benchmark(benchmark).truth:
            try:
                print_table(compare(benchmark, [Results(run.folder)], sequences, protocol))
            except DataError as error:
                scored = False
                tell(str(error))
        else:
            tell(f"the truth is not public: grm submit {run.folder} writes what its server takes")
    tell(f"{run.folder}: results of {len(found) - len(faults)} of {len(found)} sequences")
    for outcome in faults[:_PRINTED]:
        tell(f"failed: {outcome.name}: {outcome.fault}")
    if len(faults) > _PRINTED:
        tell(f"failed: {len(faults) - _PRINTED} more")
    if faults or not scored:
        raise typer.Exit(1)
