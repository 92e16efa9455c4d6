"""The commands of data sets: `grm data check`, `grm data render`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, printable
from .options import Preset, Settings

if TYPE_CHECKING:
    from ..data.check import Findings

# So many faults of a data set are printed; --json has all.
_PRINTED = 20
# Columns that the table takes; a narrower terminal breaks its lines, and no cell is cut short.
_TABLE_WIDTH = 120

app = typer.Typer(
    help="Check data sets; render synthetic video.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.command(epilog="Example: grm data check grm_b256 --set data.root=/datasets")
def check(
    preset: Preset,
    settings: Settings = None,
    every: Annotated[int, typer.Option(metavar="N", min=1, help="Open one image of so many; 1: every one.")] = 100,
    report: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write what was found to this file.")
    ] = None,
) -> None:
    """Walk the data sets of a configuration and report what is broken.

    Every annotation is read and every image has to be there; some images are opened. Status 1 where something is
    missing or broken.
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..config import load_config
    from ..data import check_paths, open_datasets, rendering
    from ..data.check import check_dataset, check_folder
    from ..files import write_text

    config = load_config(preset, settings or [])
    both = {"train": config.data.train, "held_out": config.data.held_out}
    check_paths(config, *both.values())
    opened = {
        f"{part}.{name}": sequences
        for part, datasets in both.items()
        for name, sequences in open_datasets(config, datasets).items()
    }
    if not opened:
        raise DataError(f"{preset}: data.train and data.held_out name no data set")
    found: dict[str, Findings] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, sequences in opened.items():
            task = progress.add_task(name, total=len(sequences))
            found[name] = check_dataset(
                sequences,
                config,
                held_out=name.startswith("held_out."),
                every=every,
                advance=lambda task=task: progress.advance(task),
            )
    rendered = rendering(config)
    for name, folder in (("photographs", rendered.photographs), ("cutouts", rendered.cutouts)):
        if folder is not None:
            found[f"synthetic.{name}"] = check_folder(folder, opacity=name == "cutouts")
    _print(found)
    if report is not None:
        write_text(report, json.dumps({name: asdict(findings) for name, findings in found.items()}, indent=1))
    if any(findings.faults for findings in found.values()):
        raise typer.Exit(1)


@app.command(epilog="Example: grm data render clip.mp4 --seed 3 --held-out --draw")
def render(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A new folder, or a video file: .mp4, .avi, ...")],
    preset: Annotated[
        str, typer.Option("--config", metavar="PRESET|FILE", help="Preset or YAML file with the difficulty.")
    ] = "synthetic_tiny",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Which sequence.")] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Of the held-out ones, not of those to train on.")
    ] = False,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the boxes: green, red where the target is hidden.")
    ] = False,
) -> None:
    """Render a synthetic sequence to a folder of frames or a video.

    A folder gets the frames and groundtruth.txt, one x,y,w,h a line.
    """
    from ..config import load_config
    from ..data import rendering
    from ..data.export import export_folder, export_video
    from ..data.synthetic import HELD_OUT, synthetic_sequence

    if seed >= HELD_OUT:
        raise DataError(f"--seed: expected a number below {HELD_OUT}, got {seed}")
    sequence = synthetic_sequence(rendering(load_config(preset, settings or [])), seed + HELD_OUT * held_out)
    write = export_video if output.suffix and not output.is_dir() else export_folder
    write(sequence, output, draw=draw)
    print(f"{output}: {len(sequence)} frames, {sequence.visible.sum()} of them with the target in sight")


app.command("export", hidden=True, deprecated=True, help="The former name of render.")(render)


def _print(found: "dict[str, Findings]") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)
    table = Table("data set", box=None)
    for column in (
        "sequences",
        "walked",
        "too short",
        "frames",
        "with box",
        "visible",
        "opened",
        "over edge",
        "faults",
    ):
        table.add_column(column, justify="right")
    for name, one in found.items():
        shares = (f"{count / max(1, one.frames):.1%}" for count in (one.boxes, one.visible))
        numbers = (
            one.listed,
            one.walked,
            one.too_short,
            one.frames,
            *shares,
            one.opened,
            one.over_edge,
            len(one.faults),
        )
        table.add_row(name, *map(str, numbers))
    console.print(table)
    for name, one in found.items():
        for fault in one.faults[:_PRINTED]:
            console.print(printable(f"{name}: {fault}"), markup=False, soft_wrap=True)
        if len(one.faults) > _PRINTED:
            console.print(f"{name}: and {len(one.faults) - _PRINTED} more faults", markup=False, soft_wrap=True)
