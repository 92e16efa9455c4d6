"""`grm speed`."""

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BoxError, ConfigError
from .options import (
    BoxOption,
    CompileOption,
    ConfigOption,
    CudaGraph,
    Device,
    Precision,
    PrecisionOption,
    Settings,
    Threads,
    Weights,
    check_outputs,
    device_named,
    fixed_layers,
    load,
    one_box_given,
    placing,
    use_threads,
)

if TYPE_CHECKING:
    from ..boxes import Boxes
    from ..crop import Image
    from ..model import GRM


def speed(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Video or folder for the frames; else noise, 1280 x 720.")
    ] = None,
    box: BoxOption = None,
    weights: Weights = None,
    config: ConfigOption = None,
    settings: Settings = None,
    device: Device = "auto",
    dtype: PrecisionOption = Precision.float32,
    threads: Threads = None,
    share: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="With new weights: share of S tokens that every layer of every form that divides is brought to; with "
            "trained ones the other forms are brought to what those decide.",
        ),
    ] = 0.5,
    fix: Annotated[
        str | None, typer.Option(metavar="LAYERS", help="Add a form with layers fixed, as in '{2: S, 3: A}'.")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Frames of each form.")] = 20,
    targets: Annotated[int, typer.Option(metavar="N", min=1, help="Targets followed at once.")] = 1,
    compile: CompileOption = False,
    cuda_graph: CudaGraph = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file for the figures.")] = None,
) -> None:
    """Time the tracker in the five forms of the paper's Table 4, in turn.

    Its own form three times: fused attention, and the paper's two implementations of it.
    """
    import numpy as np
    import torch
    from rich.console import Console

    from grm_kernels import Category

    from ..evaluation.forms import FORMS, balance_division, dividing_forms, row_of_table
    from ..evaluation.speed import compare_dtypes, measure_forms, time_parts
    from ..files import write_text
    from ..media.frames import open_frames, readable
    from ..model import reconfigured
    from .report import print_rows

    check_outputs([output], source, weights)
    use_threads(threads)
    device = device_named(device, cuda_graph=cuda_graph)
    model = load(weights, config, settings)
    division = model.config.division
    if division.soft:
        raise ConfigError("model.division.soft: separate attention needs decisions, so it cannot be compared")
    frame, target = _speed_frame(source, box)
    fixed = None if fix is None else fixed_layers(fix, model)
    with placing(source or "noise"):
        if weights is None and config is not None and division.ratio is None:
            balance_division(model, frame, target, share)
        speeds = measure_forms(
            model, frame, np.repeat(target[None], targets, 0), device=device, dtype=dtype.dtype,
            compile=compile, cuda_graph=cuda_graph, fixed=fixed, rounds=rounds,
            others=dividing_forms(model, frame, target, share),
        )  # fmt: skip
    fused = speeds[0]
    where = f"{device}, {torch.get_num_threads()} threads, {dtype.value}, torch {torch.__version__}"
    title = f"Milliseconds for a frame of {targets} target(s); {where}"
    headings = ["form", "row", "S", "pre", "network", "post", "frames/s", "of fused", "attention", "of fused"]
    lines = [
        [
            s.form,
            row_of_table(s.form, division.variant),
            f"{s.shares[Category.S]:.0%}",
            *(f"{1e3 * seconds:.2f}" for seconds in (s.pre_processing, s.model, s.post_processing)),
            f"{1 / s.total:.1f}",
            f"{s.total / fused.total:.2f}x",
            f"{1e3 * s.attention:.2f}",
            f"{s.attention / fused.attention:.2f}x",
        ]
        for s in speeds
    ]
    print_rows(headings, lines, title)
    console = Console(highlight=False)
    record = {"machine": platform.machine(), "where": where, "targets": targets, "fixed": fixed}
    record["share_s"] = _share_of_s(model, frame, target)
    record["forms"] = [{**s._asdict(), "total": s.total} for s in speeds]
    if device == "cpu":
        parts = time_parts(reconfigured(model, FORMS["fused"]), frame, target, dtype=dtype.dtype)
        record["parts"] = parts
        whole = sum(parts.values())
        listed = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts.items())
        console.print(f"Where the time goes (fused): {listed}")
    damage = None
    if source is not None and dtype is not Precision.float32 and (frames := open_frames(source)).length != 1:
        agreement = compare_dtypes(model, readable(frames, 200), target, dtype.dtype)
        damage = frames.damage
        record["agreement"] = agreement._asdict()
        console.print(
            f"{dtype.value} against float32 on {agreement.frames} frames: mean IoU of the boxes "
            f"{agreement.mean_iou:.4f}, {agreement.flips:.2%} of the tokens divided differently"
        )
    if output is not None:
        write_text(output, json.dumps(record, indent=1) + "\n")
    if damage is not None:
        raise damage


def _share_of_s(model: "GRM", frame: "Image", box: "Boxes") -> float:
    """Share of S among the search tokens in the layers that divide; of all layers where none does."""
    from grm_kernels import Category

    from ..tracking import Tracker

    tracker = Tracker.from_model(model)
    tracker.initialize(frame, box)
    divisions = tracker.track(frame).division
    layers = [number - 1 for number in model.config.division_layers]
    return float((divisions[layers or slice(None)] == Category.S).mean())


def _speed_frame(source: str | None, box: list[str] | None) -> "tuple[Image, Boxes]":
    from ..boxes import can_be_cropped
    from ..evaluation.speed import noise_scene
    from ..media.frames import open_frames

    if source is None:
        frame, target = noise_scene()
    else:
        frame = next(iter(open_frames(source)))
    if source is not None or box:
        target = one_box_given(box, source or "", frame)
    if not can_be_cropped(target):
        raise BoxError(f"--box: too large or too small to be cropped: {target.tolist()}")
    return frame, target
