"""The commands that track: `grm track`, `division`, `attention`, `calibrate`, `speed`."""

import csv
import itertools
import json
import platform
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from grm_kernels import Category

from ..boxes import BoxError, Boxes, can_be_cropped
from ..config import ConfigError
from ..crop import Image, crop_image, crop_region
from ..model import GRM, save_weights
from ..video import VideoError, VideoWriter, open_frames
from .arguments import (
    boxes_given,
    check_outputs,
    check_picture,
    device_named,
    faults_in,
    fixed_layers,
    layers_named,
    load,
    messages,
    one_box_given,
)
from .attention import template_attention
from .calibration import calibrate as find_fixed_layers
from .calibration import fix_layers
from .drawing import division_strip, draw_boxes, save_attention_picture, save_division_picture
from .speed import balance_division, compare_dtypes, measure_forms, noise_scene, time_parts
from .tracker import Track, Tracker

_output = Console(highlight=False)


class Precision(str, Enum):
    """What the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"

    @property
    def dtype(self) -> torch.dtype:
        """Torch's name for it."""
        return getattr(torch, self.value)


Source = Annotated[str, typer.Argument(help="A video file, a folder of images, or a camera's number.")]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X,Y,W,H",
        help="The target in the first frame, in pixels; several times for several targets. Without it: the first line "
        "of the folder's groundtruth.txt, or drawn by you.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="A .safetensors file of ours, or a published checkpoint (with --config).")
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="A preset or a YAML file. Alone: new, untrained weights.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Changes the configuration: model.division.threshold=0.4"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
PrecisionOption = Annotated[Precision, typer.Option("--dtype", help="What the network computes in.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="torch.compile: a minute first, then faster.")]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph", help="Record the kernels of a frame and replay them.")]
Layers = Annotated[list[int] | None, typer.Option("--layer", help="A layer, from 1 on; several times for several.")]
FrameNumber = Annotated[int, typer.Option("--frame", min=1, help="Number of the frame to look at; the first is 0.")]
Picture = Annotated[Path, typer.Option(help="The picture to write: .png, .pdf or .svg.")]


def track(
    source: Source,
    box: BoxOption = None,
    output: Annotated[Path | None, typer.Option(help="Video to write, with boxes drawn: .mp4, .mkv, ...")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Table to write: frame,target,x,y,w,h,score.")] = None,
    weights: Weights = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
    show_division: Annotated[
        bool, typer.Option("--show-division", help="Below the frame: the search region with its S tokens dark.")
    ] = False,
    layer: Layers = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1e4, help="Frames per second of a folder of images.")
    ] = None,
    compile: CompileOption = False,
    cuda_graph: CudaGraph = False,
) -> None:
    """Follow targets through a video, and write what is seen as a video, a table, or both."""
    if output is None and csv_path is None:
        raise ConfigError("nothing to write: give --output, --csv or both")
    check_outputs([output, csv_path], source, weights)
    model = load(weights, config, overrides)
    layers = layers_named(layer, model) if show_division or layer else []
    frames = open_frames(source, None if rate is None else Fraction(rate).limit_denominator(1001))
    images = iter(frames) if limit is None else itertools.islice(frames, limit)
    first = next(images)
    boxes = boxes_given(box, source, first)
    tracker = _tracker(model, device, dtype, compile=compile, cuda_graph=cuda_graph)
    with faults_in(source):
        tracker.initialize(first, boxes)

    tracking_seconds, tracked = 0.0, 0
    fault = None
    with ExitStack() as files:
        video = files.enter_context(VideoWriter(output, frames.rate)) if output else None
        table = files.enter_context(_BoxTable(csv_path)) if csv_path else None
        progress = files.enter_context(_progress())
        total = limit if frames.length is None else min(frames.length, limit or frames.length)
        task = progress.add_task(frames.name, total=total)
        try:
            for number, image in enumerate(itertools.chain([first], images)):
                if number == 0:
                    result = None
                else:
                    start = time.perf_counter()
                    with faults_in(f"{source}: frame {number}"):
                        result = tracker.track(image)
                    tracking_seconds += time.perf_counter() - start
                if table:
                    table.write(number, boxes if result is None else result.box, result and result.score)
                if video:
                    video.write(_draw(image, boxes, result, layers, tracker))
                tracked += 1
                progress.advance(task)
        except VideoError as error:
            fault = error
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # another one would leave a video without its end
            fault = VideoError(f"stopped by you after {tracked} frames")
    kept = " and ".join(str(path) for path in (output, csv_path) if path)
    speed = f", tracking alone at {(tracked - 1) / tracking_seconds:.1f} frames per second" if tracked > 1 else ""
    messages.print(f"{kept}: {tracked} frames{speed}")
    if fault is not None:
        raise fault


def division(
    source: Source,
    output: Picture = Path("division.png"),
    box: BoxOption = None,
    frame: FrameNumber = 1,
    weights: Weights = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
) -> None:
    """Picture the token division of every layer in one frame."""
    check_picture(output, source, weights)
    tracker, template, image = _track_to(source, box, frame, load(weights, config, overrides))
    with faults_in(f"{source}: frame {frame}"):
        regions, crops = tracker.search_crops(image)
        result = tracker.accept(image, regions, tracker.locate(crops))
    save_division_picture(output, template, crops[0], result.division)
    messages.print(f"{output}: frame {frame}, score {result.score:.2f}")


def attention(
    source: Source,
    output: Picture = Path("attention.png"),
    box: BoxOption = None,
    frame: FrameNumber = 1,
    layer: Layers = None,
    weights: Weights = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
) -> None:
    """Picture what the template attends to in the search region of a frame, by layer (default: those that divide)."""
    check_picture(output, source, weights)
    model = load(weights, config, overrides)
    layers = layers_named(layer, model)
    tracker, template, image = _track_to(source, box, frame, model)
    with faults_in(f"{source}: frame {frame}"):
        _, crops = tracker.search_crops(image)
        maps = template_attention(tracker.network.model, tracker.template, tracker.network.images(crops), layers)
        if not np.isfinite(maps).all():
            raise RuntimeError("the attention is not finite")
    save_attention_picture(output, template, crops[0], maps[0], layers)
    messages.print(f"{output}: frame {frame}, layers {', '.join(map(str, layers))}")


def calibrate(
    sources: Annotated[list[str], typer.Argument(help="Video files or folders of images.")],
    box: BoxOption = None,
    output: Annotated[Path | None, typer.Option(help="Weights to write, with the layers found fixed.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Frames of each source, at most.")] = 100,
    weights: Weights = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
) -> None:
    """Find the layers whose tokens are always all S or all A (appendix C.2), and what fixing them saves."""
    model = load(weights, config, overrides)
    if not model.config.division_layers:
        raise ConfigError(f"variant {model.config.division.variant} divides in no layer: there is nothing to fix")
    if model.config.division.soft:
        raise ConfigError("model.division.soft: its layers mix categories; there is nothing to fix")
    check_outputs([output], weights, *sources)
    if output is not None and output.suffix != ".safetensors":
        raise ConfigError(f"{output}: expected a .safetensors file to write")
    model = fix_layers(model, {})
    tracker = _tracker(model, device, dtype)
    divisions = []
    for source in sources:
        images = itertools.islice(open_frames(source), limit)
        first = next(images)
        target = one_box_given(box, source, first)
        with faults_in(source):
            tracker.initialize(first, target)
            divisions += [tracker.track(image).division for image in images]
    if not divisions:
        raise VideoError("the sources hold one frame each: nothing was tracked")
    found = find_fixed_layers(np.stack(divisions), model.config)
    table = Table(title=f"{found.frames} frames of {len(sources)} sources", title_justify="left")
    for name in ("layer", "lowest share of A", "mean", "highest", "always"):
        table.add_column(name, justify="right")
    for number, shares in found.shares.items():
        table.add_row(str(number), *(f"{share:.1%}" for share in shares), found.fixed.get(number, ""))
    _output.print(table)
    if not found.fixed:
        _output.print("No layer is always all S or all A.")
        return
    if output is not None:
        save_weights(fix_layers(model, found.fixed), output)
        messages.print(f"{output}: weights with these layers fixed")
    speeds = {
        s.form: s
        for s in measure_forms(model, first, target, device=device_named(device), dtype=dtype.dtype, fixed=found.fixed)
    }
    saving = 1 - speeds["fused, layers fixed"].model / speeds["fused"].model
    told = f"Fixing them saves {saving:.1%} of the network's time: --set 'model.division.fixed={found.fixed}'"
    _output.print(told, soft_wrap=True)


def speed(
    source: Annotated[
        str | None, typer.Argument(help="Video or folder for the frames; else noise, 1280 x 720.")
    ] = None,
    box: BoxOption = None,
    weights: Weights = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="With new weights: share of S tokens that every layer is brought to.")
    ] = 0.5,
    fix: Annotated[str | None, typer.Option(help="Adds a form with layers fixed, as in '{2: S, 3: A}'.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Frames of each form.")] = 20,
    targets: Annotated[int, typer.Option(min=1, help="Targets followed at once.")] = 1,
    compile: CompileOption = False,
    cuda_graph: CudaGraph = False,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time the tracker with fused, masked and separate attention, and as two-stream and one-stream form."""
    model = load(weights, config, overrides)
    settings = model.config.division
    if settings.soft:
        raise ConfigError("model.division.soft: separate attention needs decisions, so it cannot be compared")
    check_outputs([output], source, weights)
    device = _device(device, cuda_graph=cuda_graph)
    frame, target = _speed_frame(source, box)
    fixed = None if fix is None else fixed_layers(fix, model)
    with faults_in(source or "noise"):
        if weights is None and settings.variant in ("sa", "ts") and settings.ratio is None:
            balance_division(model, frame, target, share)
        speeds = measure_forms(
            model, frame, np.repeat(target[None], targets, 0), device=device, dtype=dtype.dtype,
            compile=compile, cuda_graph=cuda_graph, fixed=fixed, rounds=rounds,
        )  # fmt: skip
    fused = speeds[0]
    where = f"{device}, {torch.get_num_threads()} threads, {dtype.value}, torch {torch.__version__}"
    table = Table(title=f"Milliseconds for a frame of {targets} target(s); {where}", title_justify="left")
    columns = ("pre", "network", "post", "frames/s", "of fused", "attention", "of fused")
    for name in ("form", *columns):
        table.add_column(name, justify="left" if name == "form" else "right")
    for s in speeds:
        table.add_row(
            s.form,
            *(f"{1e3 * seconds:.2f}" for seconds in (s.pre_processing, s.model, s.post_processing)),
            f"{1 / s.total:.1f}",
            f"{s.total / fused.total:.2f}x",
            f"{1e3 * s.attention:.2f}",
            f"{s.attention / fused.attention:.2f}x",
        )
    _output.print(table)
    record = {"machine": platform.machine(), "where": where, "targets": targets, "fixed": fixed}
    record["share_s"] = _share_of_s(model, frame, target)
    record["forms"] = [{**s._asdict(), "total": s.total} for s in speeds]
    if device == "cpu":
        parts = time_parts(model, frame, target, dtype=dtype.dtype)
        record["parts"] = parts
        whole = sum(parts.values())
        listed = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts.items())
        _output.print(f"Where the time goes (fused): {listed}")
    if source is not None and dtype is not Precision.float32 and open_frames(source).length != 1:
        agreement = compare_dtypes(model, itertools.islice(open_frames(source), 200), target, dtype.dtype)
        record["agreement"] = agreement._asdict()
        _output.print(
            f"{dtype.value} against float32 on {agreement.frames} frames: mean IoU of the boxes "
            f"{agreement.mean_iou:.4f}, {agreement.flips:.2%} of the tokens divided differently"
        )
    if output is not None:
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _share_of_s(model: GRM, frame: Image, box: Boxes) -> float:
    """Of the search tokens in the layers that divide; of all layers where none does."""
    tracker = Tracker(model)
    tracker.initialize(frame, box)
    divisions = tracker.track(frame).division
    layers = [number - 1 for number in model.config.division_layers]
    return float((divisions[layers or slice(None)] == Category.S).mean())


def _tracker(model: GRM, device: str, dtype: Precision, *, compile: bool = False, cuda_graph: bool = False) -> Tracker:
    device = _device(device, cuda_graph=cuda_graph)
    return Tracker(model, device=device, dtype=dtype.dtype, compile=compile, cuda_graph=cuda_graph)


def _device(name: str, *, cuda_graph: bool) -> str:
    """A device that is there, and that records CUDA graphs if it is to."""
    name = device_named(name)
    if cuda_graph and not name.startswith("cuda"):
        raise ConfigError(f"--cuda-graph: needs a CUDA device, got {name}")
    return name


def _track_to(source: str, box: list[str] | None, number: int, model: GRM) -> tuple[Tracker, Image, Image]:
    """A tracker that has seen the frames before a number, its template crop, and the frame of that number."""
    images = itertools.islice(open_frames(source), number + 1)
    tracker = Tracker(model)
    with faults_in(source):
        for index, image in enumerate(images):
            if index == 0:
                target = one_box_given(box, source, image)
                tracker.initialize(image, target)
                crop = tracker.config.template
                template = crop_image(image, crop_region(target, crop.factor), crop.size)
            elif index == number:
                return tracker, template, image
            else:
                tracker.track(image)
    raise VideoError(f"{source}: has {index + 1} frames, there is no frame {number} (the first is 0)")


def _speed_frame(source: str | None, box: list[str] | None) -> tuple[Image, Boxes]:
    if source is None:
        frame, target = noise_scene()
    else:
        frame = next(iter(open_frames(source)))
    if source is not None or box:
        target = one_box_given(box, source or "", frame)
    if not can_be_cropped(target):
        raise BoxError(f"--box: too large or too small to be cropped: {target.tolist()}")
    return frame, target


def _draw(image: Image, boxes: Boxes, result: Track | None, layers: Iterable[int], tracker: Tracker) -> Image:
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
    return np.vstack([drawn, division_strip(image, regions, divisions, list(layers))])


class _BoxTable:
    """A CSV file of boxes, written line by line; the score is empty where the box was given."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "_BoxTable":
        with self._named():
            self._file = self._path.open("w", newline="", encoding="utf-8", buffering=1)
            self._writer = csv.writer(self._file)
            self._writer.writerow(["frame", "target", "x", "y", "w", "h", "score"])
        return self

    def __exit__(self, *error: object) -> None:
        with self._named():
            self._file.close()

    def write(self, frame: int, boxes: Boxes, scores: Iterable[float] | None) -> None:
        scores = [""] * len(boxes) if scores is None else [f"{score:.4f}" for score in scores]
        with self._named():
            for target, (box, score) in enumerate(zip(boxes, scores, strict=True)):
                self._writer.writerow([frame, target, *(f"{value:.3f}" for value in box), score])

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VideoError(f"{self._path}: cannot be written: {error.strerror}") from None


class _Rate(ProgressColumn):
    """Frames per second, reading and writing included."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} frames/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        _Rate(),
        TimeRemainingColumn(),
        console=messages,
    )
