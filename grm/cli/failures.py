"""`grm failures`: where a tracker loses its target, to what, and how its layers divided the search region then."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .evaluate import Names
from .options import (
    Layers,
    Picture,
    Weights,
    check_outputs,
    check_picture,
    layers_named,
    load_of_run,
    model_config_of,
    tell,
)
from .report import print_rows

if TYPE_CHECKING:
    from ..data import VideoSequence
    from ..evaluation.failures import Failure
    from ..evaluation.results import Results
    from ..sheet import Band, Shot
    from ..tracking import Tracker

_COLUMNS = ("sequence", "kind", "last held", "lost", "found again", "score")
# Layers that a sheet shows where none are named.
_SHOWN = 3
# Side of the template, and of a search region where the tracker is not known, in square roots of the target's area.
_TEMPLATE, _SEARCH = 2.0, 4.0


def failures(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="[BENCHMARK:]FOLDER of grm evaluate, or of another tool.")
    ],
    output: Picture = Path("failures.png"),
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="So many losses in the picture, of each kind some.")
    ] = 6,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="All losses: sequence,kind,last held,lost,...")
    ] = None,
    weights: Weights = None,
    layer: Layers = None,
    benchmark: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="What the results are of, if they do not say.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The data set; default: where grm evaluate found it.")
    ] = None,
    names: Names = None,
) -> None:
    """Find where targets are lost, and picture the division before, at and after it.

    Kinds: drift to a look-alike, occlusion, size, other drift. The division is that of --weights, if the results are
    of these; of other results the frames are shown alone.
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..evaluation.benchmarks import find_benchmark
    from ..evaluation.failures import list_failures, varied
    from ..evaluation.report import open_results_benchmark, parse_entries
    from ..files import write_text
    from ..sheet import most_divided, save_sheet

    check_picture(output)
    check_outputs([output, csv_path], weights, names)
    entry = parse_entries([results], benchmark)[0]
    tracker = _tracker_of(entry.results, weights)
    layers = [] if tracker is None else layers_named(layer, tracker.network.model)  # type: ignore[attr-defined]
    sequences = open_results_benchmark(entry.benchmark, [entry.results], root, names)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("looking for losses", total=2 * len(sequences))
        row = find_benchmark(entry.benchmark)
        found = list(list_failures(row, entry.results, sequences, lambda: progress.advance(task), tell))
    rows = [_row(failure) for failure in found]
    if csv_path is not None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *rows])
        write_text(csv_path, text.getvalue())
    if not found:
        tell("no target is lost")
        return
    print_rows(list(_COLUMNS), rows)
    kinds = sorted({failure.kind for failure in found})
    tell("; ".join(f"{kind}: {sum(failure.kind == kind for failure in found)}" for kind in kinds))
    chosen = varied(found, limit)
    shots = [_shots(one, sequences[one.number], entry.results, row.prefix, tracker) for one in chosen]
    if not layer:
        layers = most_divided([shot for three in shots for shot in three], layers, _SHOWN)
    bands = [_band(one, sequences[one.number], three, layers) for one, three in zip(chosen, shots, strict=True)]
    save_sheet(output, bands, f"Targets that {entry.label} loses: {row.title}")
    tell(f"{output}: {len(bands)} of {len(found)} losses")


def _row(failure: "Failure") -> list[str]:
    again = "" if failure.found_again is None else str(failure.found_again)
    score = f"{failure.score:.2f}" if failure.score == failure.score else ""
    return [failure.sequence, failure.kind, str(failure.before), str(failure.at), again, score]


def _tracker_of(results: "Results", weights: str | None) -> "Tracker | None":
    """A tracker with the weights and the configuration of a run; None where they are others."""
    from ..evaluation.identity import weights_hash
    from ..model import GRM
    from ..tracking import Tracker

    model = load_of_run(weights, results.run)
    if results.run is None or results.run["identity"].get("weights") != weights_hash(model):
        tell(f"no division is shown: the results in {results.folder} are not of these weights (--weights)")
        return None
    configured = GRM(model_config_of(results.run)).eval()
    configured.load_state_dict(model.state_dict())
    return Tracker(configured)


def _shots(
    failure: "Failure", sequence: "VideoSequence", results: "Results", prefix: str, tracker: "Tracker | None"
) -> "list[Shot]":
    """The last frame in which the target is held, that of the loss, and one after it, as the tracker saw them."""
    import numpy as np

    from ..crop import crop_region
    from ..sheet import Shot

    name = str(results.find(sequence.name, prefix))
    boxes, scores = results.first_boxes(name, sequence.boxes), results.scores(name, len(sequence))
    factor = _SEARCH
    if tracker is not None:
        tracker.initialize(sequence.frame(0), sequence.boxes[0])
        factor = tracker.config.search.factor
    shots = []
    for number in (failure.before, failure.at, failure.after):
        # Where it was searched for: around the box before, or the last one that was one.
        known = np.flatnonzero(np.isfinite(boxes[:number]).all(-1) & (boxes[:number, 2:] > 0).all(-1))
        frame, around = sequence.frame(number), boxes[known[-1]] if len(known) else sequence.boxes[0]
        division = np.zeros((0, 1, 1), dtype=np.uint8)
        if tracker is not None:
            tracker.boxes = around[None]
            division = tracker.track(frame).division
        score = np.nan if scores is None else scores[number]
        region = crop_region(around, factor)
        shots.append(Shot(frame, region, division, boxes[number], sequence.boxes[number], float(score)))
    return shots


def _band(failure: "Failure", sequence: "VideoSequence", shots: "list[Shot]", layers: list[int]) -> "Band":
    """The template, and the three frames: each whole, its search region, and what chosen layers make of it."""
    import numpy as np

    from ..boxes import iou
    from ..crop import crop_region
    from ..sheet import Band, Tile, frame_tile, layer_tile, region_tile, search_tile

    first: list[Tile | None] = [
        region_tile(sequence.frame(0), crop_region(sequence.boxes[0], _TEMPLATE), "frame 0: template"), None, None
    ]  # fmt: skip
    moments = (f"{failure.before}: last held", f"{failure.at}: lost", f"{failure.after}: after")
    rows = []
    for moment, shot, template in zip(moments, shots, first, strict=True):
        overlap = iou(np.nan_to_num(shot.tracked), np.nan_to_num(shot.true))
        caption = f"overlap {overlap:.2f}" + (f", score {shot.score:.2f}" if shot.score == shot.score else "")
        tiles = [frame_tile(shot, f"frame {moment}"), search_tile(shot, caption)]
        rows.append([template, *tiles, *(layer_tile(shot, number) for number in layers)])
    again = "not found again" if failure.found_again is None else f"found again in frame {failure.found_again}"
    return Band(f"{failure.sequence}: {failure.kind}, {again}", rows)
