"""`grm track`."""

import csv
import itertools
import signal
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, MediaError
from ..files import naming
from .options import (
    BoxOption,
    CompileOption,
    ConfigOption,
    CudaGraph,
    Device,
    Layers,
    Precision,
    PrecisionOption,
    Settings,
    Source,
    Threads,
    Weights,
    boxes_given,
    check_outputs,
    device_named,
    layers_named,
    load,
    placing,
    tell,
    use_threads,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..boxes import Boxes
    from ..crop import Image
    from ..tracking import Track, Tracker


def track(
    source: Source,
    box: BoxOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Video to write, with boxes drawn: .mp4, .mkv, ...")
    ] = None,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Table to write: frame,target,x,y,w,h,score.")
    ] = None,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
    threads: Threads = None,
    show_division: Annotated[
        bool, typer.Option("--show-division", help="Below the frame: the search region with its S tokens dark.")
    ] = False,
    layer: Layers = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after so many frames.")] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="FPS", min=0.1, max=1e4, help="Frames per second of a folder of images.")
    ] = None,
    compile: CompileOption = False,
    cuda_graph: CudaGraph = False,
) -> None:
    """Follow targets through a video; write a video or a table."""
    from ..evaluation.runner import follow
    from ..media.frames import open_frames
    from ..media.writer import VideoWriter
    from ..tracking import Tracker

    if output is None and csv_path is None:
        raise ConfigError("nothing to write: give --output, --csv or both")
    check_outputs([output, csv_path], source, weights)
    use_threads(threads)
    device = device_named(device, cuda_graph=cuda_graph)
    model = load(weights, config, settings)
    layers = layers_named(layer, model) if show_division or layer else []
    frames = open_frames(source, None if rate is None else Fraction(rate).limit_denominator(1001))
    images = iter(frames) if limit is None else itertools.islice(frames, limit)
    first = next(images)
    boxes = boxes_given(box, source, first)
    tracker = Tracker.from_model(model, device=device, dtype=dtype.dtype, compile=compile, cuda_graph=cuda_graph)
    steps = follow(tracker, itertools.chain([first], images), boxes)
    with placing(source):
        step = next(steps)

    seconds, fault = 0.0, None
    with ExitStack() as files:
        video = files.enter_context(VideoWriter(output, frames.rate)) if output else None
        table = files.enter_context(_BoxTable(csv_path)) if csv_path else None
        progress = files.enter_context(_progress())
        total = limit if frames.length is None else min(frames.length, limit or frames.length)
        task = progress.add_task(frames.name, total=total)
        tracked = 0
        try:
            while step is not None:
                if table:
                    table.write(step.number, boxes if step.result is None else step.result.box, step.result)
                if video:
                    video.write(_draw(step.frame, boxes, step.result, layers, tracker))
                tracked += 1
                progress.advance(task)
                with placing(f"{source}: frame {tracked}"):
                    step = next(steps, None)
                seconds += step.seconds if step else 0
        except MediaError as error:
            fault = error
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # another one would leave a video without its end
            fault = MediaError(f"stopped by you after {tracked} frames")
    written = " and ".join(str(path) for path in (output, csv_path) if path)
    speed = f", tracking alone at {(tracked - 1) / seconds:.1f} frames per second" if tracked > 1 else ""
    tell(f"{written}: {tracked} frames{speed}")
    if fault is not None:
        raise fault


def _draw(image: "Image", boxes: "Boxes", result: "Track | None", layers: list[int], tracker: "Tracker") -> "Image":
    import numpy as np

    from ..crop import crop_region
    from ..drawing import division_strip, draw_boxes

    if result is None:
        drawn = draw_boxes(image, boxes, ["given"] * len(boxes))
    else:
        drawn = draw_boxes(image, result.box, [f"{score:.2f}" for score in result.score])
    if not layers:
        return drawn
    if result is None:  # nothing was divided yet; the strip is there from the first frame on
        regions = [crop_region(box, tracker.config.search.factor) for box in boxes]
        side = tracker.config.search_side
        divisions = np.zeros((len(boxes), tracker.config.encoder.depth, side, side), dtype=np.uint8)
    else:
        regions, divisions = result.region, result.division
    return np.vstack([drawn, division_strip(image, regions, divisions, layers)])


class _BoxTable:
    """A CSV file of boxes, written line by line; the score is empty where the box was given."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "_BoxTable":
        with naming(self._path):
            self._file = self._path.open("w", newline="", encoding="utf-8", buffering=1)
            self._writer = csv.writer(self._file)
            self._writer.writerow(["frame", "target", "x", "y", "w", "h", "score"])
        return self

    def __exit__(self, *error: object) -> None:
        with naming(self._path):
            self._file.close()

    def write(self, frame: int, boxes: "Boxes", result: "Track | None") -> None:
        scores = [""] * len(boxes) if result is None else [f"{score:.4f}" for score in result.score]
        with naming(self._path):
            for target, (box, score) in enumerate(zip(boxes, scores, strict=True)):
                self._writer.writerow([frame, target, *(f"{value:.3f}" for value in box), score])


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Frames per second, reading and writing included."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} frames/s")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
    )
