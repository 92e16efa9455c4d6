"""`grm ablate`: the paper's ablations."""

from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, Settings, device_named, tell
from .signals import INTERRUPTED

if TYPE_CHECKING:
    from ..ablation.plan import Plan
    from ..training.distributed import Processes


class TableName(str, Enum):
    """What is compared."""

    table4 = "table4"
    table5 = "table5"
    appendix_c = "appendix_c"


class BudgetName(str, Enum):
    """What a row may cost."""

    small = "small"
    full = "full"


def ablate(
    table: Annotated[TableName, typer.Argument(metavar="TABLE", help="table4, table5 or appendix_c.")],
    budget: Annotated[
        BudgetName,
        typer.Option(
            metavar="BUDGET",
            help="small: the shipped weights, fine-tuned on rendered video. full: the paper's recipe, under torchrun.",
        ),
    ] = BudgetName.small,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where all goes; default: ablations/TABLE-BUDGET.")
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="A row to take; repeat for several. Default: all.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Training pairs of each run.")] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs of each row; default: 2, with full 1.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME", help="Weights whose encoder and head every run begins with, the division anew."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="PRESET|FILE", help="In place of the budget's preset.")
    ] = None,
    settings: Settings = None,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="BENCHMARK", help="What runs are evaluated on; default: synthetic, with full got10k-val."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of its data set; default: as data.held_out has it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="So many of its sequences, the first ones; synthetic: 40.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The paper's figures of more rows: YAML, `ROW: {accuracy: 70.1, frames/s: 40}`."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Frames of each row in the timing.")] = 40,
    device: Device = "auto",
) -> None:
    """Train, evaluate and time every row of an ablation of the paper, and print the table.

    Also which of the paper's orders appear, with paired errors. Stopped however it may be, the same command goes on.
    """
    from ..ablation.plan import BUDGETS, SYNTHETIC_LIMIT, make_plan, settle
    from ..ablation.running import check_data
    from ..ablation.tables import TABLES, choose_rows, with_figures
    from ..config import load_config
    from ..evaluation.benchmarks import SYNTHETIC
    from ..training.distributed import join_processes

    allowed = BUDGETS[budget.value]
    if benchmark is not None:
        allowed = allowed._replace(benchmark=benchmark, limit=SYNTHETIC_LIMIT if benchmark == SYNTHETIC else None)
    allowed = allowed._replace(
        seeds=seeds or allowed.seeds, limit=limit or allowed.limit, weights=weights or allowed.weights
    )
    model = load_config(config or allowed.preset, [s for s in settings or () if s.startswith("model.")]).model
    whole = TABLES[table.value](model)
    chosen = choose_rows(whole if figures is None else with_figures(whole, figures), row or [])
    folder = output or Path("ablations") / f"{table.value}-{budget.value}"
    plan = make_plan(chosen, allowed, folder, pairs=pairs, preset=config, overrides=settings or (), root=root)
    check_data(plan)
    with join_processes(device_named(device)) as processes:
        processes.any(False)  # nobody writes before all have come this far
        settle(plan, write=processes.first)
        try:
            status = 0 if _work(plan, processes, rounds) else 1
        except KeyboardInterrupt:
            status = INTERRUPTED
    if status:
        tell(f"stopped: {folder} holds what is finished, and the same command goes on")
        raise typer.Exit(status)


def _work(plan: "Plan", processes: "Processes", rounds: int) -> bool:
    """Does what is left to do and prints the table; False if it was asked to stop."""
    from ..ablation.running import evaluate, measure_speed, train
    from ..ablation.summary import cells, headings, json_values, markdown, notes, summarize
    from ..files import write_text
    from .report import print_rows

    say = tell if processes.first else lambda _: None
    if not train(plan, processes, say):
        return False
    evaluate(plan, processes, say)
    if processes.first:
        summary = summarize(plan, measure_speed(plan, processes.device, rounds, say))
        print_rows(headings(summary), cells(summary), plan.table.title)
        for note in notes(summary):
            tell(note)
        write_text(plan.folder / "table.md", markdown(summary))
        write_text(plan.folder / "table.json", dumps(json_values(summary), indent=1) + "\n")
    return True
