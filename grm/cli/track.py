"""`grm track`."""

import itertools
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BoxError, ConfigError, DamagedError, MediaError
from ..files import Unfinished
from .options import (
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
    appearing,
    boxes_given,
    check_folder,
    check_outputs,
    device_named,
    layers_named,
    load,
    placing,
    tell,
    use_threads,
)
from .signals import ignore_stopping, uninterrupted
from .tables import CsvTable, JsonTable, MotTable

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.progress import Progress

    from ..boxes import Boxes
    from ..crop import Image
    from ..evaluation.runner import Step
    from ..media.frames import Frame, Frames
    from ..tracking import Tracker


def track(
    source: Source,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X,Y,W,H[@N]",
            help="A target, in pixels of the first frame, or of frame N where it comes later; repeat for several. "
            "Without it: the line of that frame in the folder's groundtruth.txt, or drawn by you.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Video to write, with boxes drawn: .mp4, .mkv, ...; or a new folder for the frames, as drawn/ or "
            "drawn/%05d.png.",
        ),
    ] = None,
    csv_path: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Table: frame,target,x,y,w,h,score,time,file,state."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The same as JSON.")] = None,
    mot_path: Annotated[
        Path | None, typer.Option("--mot", metavar="FILE", help="The same as MOTChallenge has it, counted from 1.")
    ] = None,
    window: Annotated[
        bool, typer.Option("--window", help="Watch: space pauses, b draws a box anew, n is the next target, q stops.")
    ] = False,
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
    start: Annotated[int, typer.Option(metavar="N", min=0, help="Begin at this frame; --box is of it.")] = 0,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after so many frames.")] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="FPS", min=0.1, max=1e4, help="Frames per second of a folder of images.")
    ] = None,
    compile: CompileOption = False,
    cuda_graph: CudaGraph = None,
) -> None:
    """Follow targets through a video; write a video or a table.

    What is written has its name when it is whole. Of a run that was stopped or failed it stays as
    NAME.unfinished.SUFFIX. A camera is stopped with Ctrl-C, which is no failure; nor is q in the window.
    """
    from ..evaluation.runner import follow
    from ..media.frames import open_frames
    from ..media.writer import FrameFolder, VideoWriter
    from ..tracking import Tracker
    from .window import LiveWindow

    tables = {csv_path: CsvTable, json_path: JsonTable, mot_path: MotTable}
    outputs = [path for path in (output, csv_path, json_path, mot_path) if path]
    if not outputs and not window:
        raise ConfigError("nothing to write: give --output, --csv, --json or --mot; or --window to watch")
    folder = None
    if output and FrameFolder.is_meant(output):
        folder = FrameFolder(output)
        outputs[0], output = folder.path, None
        check_folder(folder.path, source, weights, *outputs[1:])
    check_outputs(outputs[1:] if folder else outputs, source, weights)
    use_threads(threads)
    device = device_named(device, cuda_graph=cuda_graph)
    model = load(weights, config, settings)
    layers = layers_named(layer, model) if show_division or layer else []
    frames = open_frames(source, None if rate is None else Fraction(rate).limit_denominator(1001))
    for note in frames.notes:
        tell(f"note: {note}")
    start, given, later = appearing(box, start, frames.length if frames.counted else None, limit)
    reading = _Reading(frames, source, start, limit)
    images = iter(reading)
    first = next(images)
    live = LiveWindow(frames.name) if window else None
    boxes = boxes_given(given, source, first, start, live and live.draw_box)
    tracker = Tracker.from_model(model, device=device, dtype=dtype.dtype, compile=compile, cuda_graph=cuda_graph)
    steps = follow(tracker, itertools.chain([first], images), boxes)
    with placing(source):
        step = next(steps)

    seconds, tracked, fault = 0.0, 0, None
    try:
        with ExitStack() as files:
            writers = [files.enter_context(kind(path)) for path, kind in tables.items() if path]
            # Closed first: where it cannot be, the tables have not got their names.
            video = files.enter_context(VideoWriter(output, frames.rate)) if output else None
            pictures = files.enter_context(folder) if folder else None
            if live:
                files.enter_context(live)
            progress = files.enter_context(_progress())
            total = None if frames.length is None else max(1, frames.length - start)
            task = progress.add_task(frames.name, total=total if limit is None else min(limit, total or limit))
            try:
                while step is not None:
                    seen = _Seen(step, boxes)
                    while later and later[0][0] <= reading.frame.number:
                        shown = boxes_given([later.pop(0)[1]], source, step.frame)[0]
                        seen.give(tracker, len(seen.boxes), shown)
                    if live:
                        shown = live.show(_draw(seen, layers, tracker, len(later)), step.frame, len(seen.boxes))
                        for number, box in shown.items():
                            seen.give(tracker, number, box)
                    drawn = _draw(seen, layers, tracker, len(later)) if video or pictures else None
                    with uninterrupted():  # as many rows as frames, whenever it is stopped
                        if video:
                            video.write(drawn, reading.frame.time - reading.first.time)
                        if pictures:
                            pictures.write(drawn, reading.frame.number)
                        for table in writers:
                            table.write(reading.frame, seen.boxes, seen.scores, seen.states)
                        tracked += 1
                    progress.advance(task)
                    if live and live.closed:
                        break
                    with placing(f"{source}: frame {reading.frame.number + 1}"):
                        step = next(steps, None)
                    seconds += step.seconds if step else 0
            except DamagedError as error:  # all that can be read was read
                fault = error
            except KeyboardInterrupt:
                ignore_stopping()  # another one would leave a video without its end
                if not frames.endless:
                    raise MediaError(f"stopped by you after {tracked} frames") from None
            progress.update(task, total=tracked, completed=tracked)
    except (BoxError, MediaError, OSError) as error:
        _tell_written(outputs, tracked, seconds, unfinished=True)
        raise error from None
    _tell_written(outputs, tracked, seconds)
    images.close()
    fault = fault or frames.damage  # of what was read, though it was not read to its end
    if fault is None and later and not (live and live.closed) and not frames.endless:
        fault = BoxError(f"--box {later[0][1]}@{later[0][0]}: there was no such frame")
    if fault is not None:
        raise fault


def _tell_written(outputs: list[Path], tracked: int, seconds: float, *, unfinished: bool = False) -> None:
    paths = [Unfinished(path).path if unfinished else path for path in outputs]
    written = " and ".join(str(path) for path in paths if path.exists())
    speed = f", tracking alone at {(tracked - 1) / seconds:.1f} frames per second" if tracked > 1 and seconds else ""
    if written:
        tell(f"{written}: {tracked} frames{speed}")


class _Reading:
    """The images of a source from a number on, all of one size, and of the last one read its number and its time."""

    def __init__(self, frames: "Frames", source: str, start: int, limit: int | None):
        self._frames, self._source, self._start, self._limit = frames, source, start, limit
        self.first: Frame
        self.frame: Frame

    def __iter__(self) -> "Generator[Image, None, None]":
        read = 0
        with closing(self._frames.timed()) as frames:
            for frame in frames:
                if frame.number < self._start:
                    continue
                if read == 0:
                    self.first = frame
                elif frame.image.shape != self.first.image.shape:
                    (height, width), (now_height, now_width) = self.first.image.shape[:2], frame.image.shape[:2]
                    raise MediaError(
                        f"{self._source}: frame {frame.number} has {now_width} x {now_height} pixels, expected {width} "
                        f"x {height} as in the first"
                    )
                self.frame = frame
                read += 1
                yield frame.image
                if read == self._limit:
                    return
        if read == 0:
            raise MediaError(f"{self._source}: there is no frame {self._start}")


class _Seen:
    """Where the targets are in a frame, as the tracker found them or the user gave them."""

    def __init__(self, step: "Step", boxes: "Boxes"):
        self.frame, self.result = step.frame, step.result
        #: (M, 4).
        self.boxes = boxes if step.result is None else step.result.box
        #: None and "" where the box was given.
        self.scores: list[float | None] = [None] * len(boxes)
        self.states = [""] * len(boxes)
        if step.result is not None:
            self.scores, self.states = step.result.score.tolist(), step.result.state.tolist()

    def give(self, tracker: "Tracker", number: int, box: "Boxes") -> None:
        """Shows the tracker a target in this frame, one of those that there are or the next."""
        import numpy as np

        tracker.show(self.frame, number, box)
        boxes = list(self.boxes)
        boxes[number : number + 1], self.scores[number : number + 1] = [box], [None]
        self.states[number : number + 1] = [""]
        self.boxes = np.stack(boxes)


def _draw(seen: _Seen, layers: list[int], tracker: "Tracker", missing: int) -> "Image":
    """A frame with boxes, and below it what layers make of the search regions; with room for targets to come."""
    import numpy as np

    from ..crop import crop_region
    from ..drawing import division_strip, draw_boxes
    from ..tracking.certainty import LOST, UNCERTAIN

    labels = [
        "given" if score is None else f"{score:.2f} {state}".rstrip()
        for score, state in zip(seen.scores, seen.states, strict=True)
    ]
    if len(labels) > 1:
        labels = [f"{target}: {label}" for target, label in enumerate(labels)]
    dashed = [state in (UNCERTAIN, LOST) for state in seen.states]
    drawn = draw_boxes(seen.frame, seen.boxes, labels, dashed)
    if not layers:
        return drawn
    regions, divisions = ([], []) if seen.result is None else (seen.result.region, seen.result.division)
    new = seen.boxes[len(regions) :]  # of which nothing was divided yet; the strip is there from the first frame on
    side = tracker.config.search_side
    undivided = np.zeros((len(new), tracker.config.encoder.depth, side, side), dtype=np.uint8)
    regions = [*regions, *(crop_region(box, tracker.config.search.factor) for box in new)]
    strip = division_strip(seen.frame, regions, [*divisions, *undivided], layers)
    room = missing * len(strip) // len(regions)
    return np.vstack([drawn, np.pad(strip, ((0, room), (0, 0), (0, 0)))])


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
