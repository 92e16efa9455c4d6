"""The commands that look inside: `grm division`, `grm attention`, `grm calibrate`."""

import itertools
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, DamagedError, DataError, MediaError, NonFiniteError
from .options import (
    BoxOption,
    ConfigOption,
    Device,
    FrameNumber,
    FrameNumbers,
    Layers,
    Picture,
    Precision,
    PrecisionOption,
    Settings,
    Source,
    Weights,
    check_outputs,
    check_picture,
    device_named,
    layers_named,
    load,
    one_box_given,
    placing,
    tell,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..boxes import Boxes
    from ..crop import Image
    from ..model import GRM
    from ..tracking import Tracker


def division(
    source: Source,
    output: Picture = Path("division.png"),
    box: BoxOption = None,
    frame: FrameNumbers = None,
    layer: Layers = None,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
) -> None:
    """Picture the token division of frames, layer by layer.

    Without --layer: all layers. Of a folder with groundtruth.txt the true boxes are drawn, too.
    """
    import numpy as np

    from ..crop import crop_region
    from ..sheet import TRACKED, Band, Shot, Tile, division_band, region_tile, save_sheet

    check_picture(output, source, weights)
    model = load(weights, config, settings)
    layers = layers_named(layer, model) if layer else list(range(1, model.config.encoder.depth + 1))
    truth = _true_boxes(source)
    bands: list[Band] = []
    told = []
    for number, image, tracker, target in _track_through(source, box, sorted(set(frame or [1])), model):
        true = truth[number] if number < len(truth) else np.full(4, np.nan)
        if number == 0:
            region = crop_region(target, tracker.config.template.factor)
            given = [Tile(image, "frame", [(target, TRACKED)]), region_tile(image, region, "template")]
            bands.append(Band("frame 0: the target is given", [given]))
            continue
        with placing(f"{source}: frame {number}"):
            result = tracker.track(image)
        label = f"frame {number}, score {result.score:.2f} {result.state}".rstrip()
        shot = Shot(image, result.region, result.division, result.box, true)
        bands.append(division_band(shot, label, layers))
        told.append(label)
    save_sheet(output, bands, f"Token division of {Path(source).name}")
    tell(f"{output}: {'; '.join(told)}")


def attention(
    source: Source,
    output: Picture = Path("attention.png"),
    box: BoxOption = None,
    frame: FrameNumber = 1,
    layer: Layers = None,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
) -> None:
    """Picture what the template attends to in one frame, by layer.

    Without --layer: the layers that divide.
    """
    import numpy as np

    from ..drawing import save_attention_picture
    from ..tracking.attention_maps import template_attention

    check_picture(output, source, weights)
    model = load(weights, config, settings)
    layers = layers_named(layer, model)
    tracker, template, image = _track_to(source, box, frame, model)
    with placing(f"{source}: frame {frame}"):
        _, crops = tracker.search_crops(image)
        maps = template_attention(tracker.network.model, tracker.template, tracker.network.images(crops), layers)
        if not np.isfinite(maps).all():
            raise NonFiniteError("the attention is not finite")
    save_attention_picture(output, template, crops[0], maps[0], layers)
    tell(f"{output}: frame {frame}, layers {', '.join(map(str, layers))}")


def calibrate(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Video files or folders of images.")],
    box: BoxOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights to write, with the layers found fixed: .safetensors.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=2, help="Frames of each source, at most.")] = 100,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
) -> None:
    """Find the layers that divide nothing (appendix C.2).

    A layer whose tokens are always all S or all A needs no division module. Tells what fixing them saves.
    """
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from ..evaluation.runner import follow
    from ..evaluation.speed import measure_forms, saving
    from ..media.frames import open_frames, readable
    from ..model import save_weights
    from ..tracking import Tracker
    from ..tracking.calibration import calibrate as find_fixed_layers
    from ..tracking.calibration import fix_layers

    check_outputs([output], weights, *sources)
    if output is not None and output.suffix.lower() != ".safetensors":
        raise ConfigError(f"{output}: expected a .safetensors file to write")
    device = device_named(device)
    model = load(weights, config, settings)
    if not model.config.division_layers:
        raise ConfigError(f"variant {model.config.division.variant} divides in no layer: there is nothing to fix")
    if model.config.division.soft:
        raise ConfigError("model.division.soft: its layers mix categories; there is nothing to fix")
    model = fix_layers(model, {})
    tracker = Tracker.from_model(model, device=device, dtype=dtype.dtype)
    divisions, damage = [], []
    for source in sources:
        frames = open_frames(source)
        images = readable(frames, limit)
        first = next(images)
        target = one_box_given(box, source, first)
        with placing(source):
            steps = follow(tracker, itertools.chain([first], images), target)
            divisions += [step.result.division for step in steps if step.number]
        damage += [frames.damage] if frames.damage is not None else []
    if not divisions:
        raise MediaError("the sources hold one frame each: nothing was tracked")
    found = find_fixed_layers(np.stack(divisions), model.config)
    table = Table(title=f"{found.frames} frames of {len(sources)} sources", title_justify="left")
    for name in ("layer", "lowest share of A", "mean", "highest", "always"):
        table.add_column(name, justify="right")
    for number, shares in found.shares.items():
        table.add_row(str(number), *(f"{share:.1%}" for share in shares), found.fixed.get(number, ""))
    console = Console(highlight=False)
    console.print(table)
    if not found.fixed:
        console.print("No layer is always all S or all A.")
    else:
        if output is not None:
            save_weights(fix_layers(model, found.fixed), output)
            tell(f"{output}: weights with these layers fixed")
        forms = measure_forms(model, first, target, device=device, dtype=dtype.dtype, fixed=found.fixed)
        speeds = {one.form: one for one in forms}
        share, error = saving(speeds["fused"], speeds["fused, layers fixed"])
        saves = f"saves {share:.1%} of the network's time"
        measured = saves if share > 2 * error else "saves nothing that can be measured"
        console.print(
            f"Fixing them {measured} (± {2 * error:.1%}): --set 'model.division.fixed={found.fixed}'", soft_wrap=True
        )
    if damage:  # told when all is done that could be
        raise damage[0]


def _true_boxes(source: str) -> "Boxes":
    """(N, 4) of a folder's groundtruth.txt, (0, 4) where there is none that can be read: they are drawn, no more."""
    import numpy as np

    from ..data.readers.annotations import read_boxes
    from ..data.readers.folder import BOXES

    path = Path(source) / BOXES
    try:
        return read_boxes(path) if path.is_file() else np.empty((0, 4))
    except DataError as error:
        tell(f"no true boxes are drawn: {error}")
        return np.empty((0, 4))


def _track_through(
    source: str, box: list[str] | None, numbers: list[int], model: "GRM"
) -> "Iterator[tuple[int, Image, Tracker, Boxes]]":
    """The first frame and those of some numbers, rising from 1, before the tracker is asked for them; the box given."""
    from ..media.frames import open_frames
    from ..tracking import Tracker

    tracker, target, left = Tracker.from_model(model), None, list(numbers)
    frames = open_frames(source)
    with placing(source), closing(frames.timed()) as timed, suppress(DamagedError):
        for frame in timed:
            if target is None:
                target = one_box_given(box, source, frame.image)
                tracker.initialize(frame.image, target)
                yield 0, frame.image, tracker, target
            elif frame.number in left:
                left.remove(frame.number)
                yield frame.number, frame.image, tracker, target
            else:
                tracker.track(frame.image)
            if not left:
                return
    damage = "" if frames.damage is None else f"; {frames.damage}"
    raise MediaError(f"{source}: has {frame.number + 1} frames, there is no frame {left[0]} (the first is 0){damage}")


def _track_to(source: str, box: list[str] | None, number: int, model: "GRM") -> "tuple[Tracker, Image, Image]":
    """A tracker that has seen the frames before a number, its template crop, and the frame of that number."""
    from ..crop import crop_image, crop_region

    for index, image, tracker, target in _track_through(source, box, [number], model):
        if index == number:
            break
        crop = tracker.config.template
        template = crop_image(image, crop_region(target, crop.factor), crop.size)
    return tracker, template, image
