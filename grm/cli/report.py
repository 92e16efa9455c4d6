"""The commands that read results.

`grm report` compares trackers over benchmarks, `grm bounds` finds what a score means, and `grm submit` writes what the
servers take that keep the truth.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, printable
from .evaluate import Names, ProtocolName
from .options import Weights, check_outputs, load_of_run, tell

# No table is asked to be narrower.
_WIDEST = 10_000

if TYPE_CHECKING:
    from ..evaluation.report import Comparison, Entry


def report(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS",
            help="[BENCHMARK:][LABEL=]FOLDER each: of grm evaluate, pytracking, GOT-10k's toolkit, or with NAME.txt "
            "for each sequence. The others are compared with the first.",
        ),
    ],
    benchmark: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="What results are of that do not say themselves.")
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[BENCHMARK=]FOLDER",
            help="The data set; default: where grm evaluate found it. Repeat for several benchmarks.",
        ),
    ] = None,
    names: Names = None,
    protocol: Annotated[
        list[ProtocolName] | None,
        typer.Option(
            metavar="PROTOCOL",
            help="Which frames count: all-frames or valid-frames; repeat for both. Default: the benchmark's own.",
        ),
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Attributes: NAME,ATTRIBUTE,... in a line; default: the data set's."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="One page with everything, plots included.")] = None,
    frames: Annotated[
        int, typer.Option(metavar="N", min=0, help="Frames in the page, where the first and the last differ most.")
    ] = 6,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="The tables as Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Figures of benchmarks and sequences.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Everything, curves included.")] = None,
    by_sequence: Annotated[
        int, typer.Option(metavar="N", min=0, help="Print the sequences where the first and the last differ most.")
    ] = 0,
) -> None:
    """Compare trackers: tables, plots, and what of it is noise."""
    from json import dumps

    from ..evaluation.page import html_page
    from ..evaluation.rendering import csv_text, json_values, sequence_cells
    from ..evaluation.rendering import markdown as markdown_text
    from ..evaluation.report import parse_entries
    from ..files import write_text

    check_outputs([html, markdown, csv, json], names, attributes)
    entries = parse_entries(results, benchmark)
    chosen = [item.value for item in protocol or ()]
    compared = _compare(entries, _roots(root or [], entries), names, chosen, attributes)
    for comparison in compared:
        print_table(comparison)
        if by_sequence:
            print_rows(*sequence_cells(comparison, by_sequence))
    if markdown is not None:
        write_text(markdown, markdown_text(compared))
    if csv is not None:
        write_text(csv, csv_text(compared))
    if json is not None:
        write_text(json, dumps(json_values(compared), indent=1) + "\n")
    if html is not None:
        write_text(html, html_page(compared, frames))


def submit(
    results: Annotated[Path, typer.Argument(metavar="FOLDER", help="Results of grm evaluate, or of another tool.")],
    output: Annotated[Path, typer.Argument(metavar="ZIP", help="The file to write.")],
    benchmark: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="got10k-test or trackingnet; grm evaluate's results know.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The data set; default: where grm evaluate found it.")
    ] = None,
) -> None:
    """Write the zip that the server of GOT-10k or TrackingNet takes."""
    from ..evaluation.report import open_results_benchmark, parse_entries
    from ..evaluation.submission import write_submission

    check_outputs([output])
    if output.suffix.lower() != ".zip":
        raise ConfigError(f"{output}: expected a .zip file to write")
    entry = parse_entries([str(results)], benchmark)[0]
    sequences = open_results_benchmark(entry.benchmark, [entry.results], root, None, whole=True)
    count = write_submission(entry.benchmark, entry.results, sequences, output)
    tell(f"{output}: {count} sequences of {entry.benchmark}")


def bounds(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Folders of grm evaluate, made with these weights.")
    ],
    weights: Weights = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The weights to write, with the bounds: .safetensors.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The data set; default: where grm evaluate found it.")
    ] = None,
) -> None:
    """Measure from which score on a target is held, and below which it is lost.

    The results should be of video in which the target is out of sight at times. Weights that keep the bounds say held,
    uncertain or lost in grm track and in Python.
    """
    from ..evaluation.bounds import measure_bounds
    from ..evaluation.presence import presence_text
    from ..evaluation.report import open_results_benchmark, parse_entries
    from ..model import reconfigure_weights
    from ..weights import DEFAULT

    check_outputs([output], weights)
    if output is not None and output.suffix.lower() != ".safetensors":
        raise ConfigError(f"{output}: expected a .safetensors file to write")
    entries = [parse_entries([str(folder)], None)[0] for folder in results]
    runs = [(entry, open_results_benchmark(entry.benchmark, [entry.results], root, None)) for entry in entries]
    found = measure_bounds(load_of_run(weights, entries[0].results.run), runs, tell)
    print(presence_text(weights or DEFAULT, found))
    if output is not None:
        keys = f"{{lost_below: {found.low:.3f}, held_from: {found.high:.3f}}}"
        reconfigure_weights(weights or DEFAULT, output, [f"model.certainty={keys}"])
        tell(f"{output}: weights with these bounds")


def print_table(comparison: "Comparison") -> None:
    """Prints the table of a comparison, and what is to be known of it."""
    from ..evaluation.rendering import attribute_cells, cells, header, notes, title

    print_rows(header(comparison), cells(comparison), title(comparison))
    if comparison.attributes:
        print_rows(*attribute_cells(comparison))
    for note in notes(comparison):
        tell(note)


def print_rows(headings: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Prints a table: its first column to the left, all others to the right, no cell cut short."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(Text(printable(heading)), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    # A narrow terminal breaks lines; no cell is cut short.
    console.width = max(console.width, Console(width=_WIDEST).measure(table).maximum)
    console.print(table)


def _roots(texts: list[str], entries: list["Entry"]) -> dict[str, Path]:
    """Where each benchmark lies, as --root says."""
    from ..evaluation.benchmarks import BENCHMARKS

    benchmarks = list(dict.fromkeys(entry.benchmark for entry in entries))
    roots = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if equals and name in BENCHMARKS:
            roots[name] = Path(folder)
        elif len(benchmarks) == 1:
            roots[benchmarks[0]] = Path(text)
        else:
            raise ConfigError(f"--root {text}: of which benchmark? Give BENCHMARK={text}")
    return roots


def _compare(
    entries: list["Entry"], roots: dict[str, Path], names: Path | None, protocols: list, attributes: Path | None
) -> list["Comparison"]:
    from rich.console import Console
    from rich.progress import Progress

    from ..data.readers.attributes import attributes_of
    from ..evaluation.benchmarks import find_benchmark
    from ..evaluation.report import compare, is_restarted, open_results_benchmark, read_attributes, results_root

    given = None if attributes is None else read_attributes(attributes)
    compared = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for benchmark in dict.fromkeys(entry.benchmark for entry in entries):
            of = [entry.results for entry in entries if entry.benchmark == benchmark]
            sequences = open_results_benchmark(benchmark, of, roots.get(benchmark), names)
            row = find_benchmark(benchmark)
            known, place = given, results_root(of, roots.get(benchmark))
            if known is None and place is not None:
                known = attributes_of(benchmark, place, (name.removeprefix(row.prefix) for name in of[0].names))
            # GOT-10k has one rule, whatever is asked for; a run with restarts is measured as one.
            usual = "restarts" if all(map(is_restarted, of)) else row.protocol
            chosen = [usual] if row.metric == "got10k" or not protocols else protocols
            for protocol in chosen:
                task = progress.add_task(f"{row.title}, {protocol}", total=len(sequences))
                compared.append(
                    compare(
                        benchmark,
                        of,
                        sequences,
                        protocol,
                        attributes=known,
                        advance=partial(progress.advance, task),
                    )
                )
    return compared
