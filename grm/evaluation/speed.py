"""How fast the tracker is: the paper's forms of attention side by side, and where the time of a frame goes."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from grm_kernels.categories import one_hot

from ..boxes import Boxes, iou
from ..crop import Image
from ..errors import MismatchError
from ..model import GRM, Division, reconfigured
from ..model.division import TokenDivision
from ..model.encoder import Attention, Layer
from ..tracking.network import TrackingNetwork
from ..tracking.tracker import Tracker
from .forms import FORMS

_SAME_ATTENTION = ("masked", "separate")
_WARM_UP = 3


class FormSpeed(NamedTuple):
    """Medians over the rounds, in seconds for a frame."""

    form: str
    #: Cutting out and scaling the search region; on a GPU, which does that itself, packing the frame for it.
    pre_processing: float
    #: From the crop, or the frame, to boxes and scores, copies included.
    model: float
    #: Mapping to the frame and clipping.
    post_processing: float
    #: The attention of all layers alone, on the q, k, v and categories of this frame: a part of `model`.
    attention: float
    #: How far the median of `model` may be off: its standard error, by the median absolute deviation.
    model_error: float
    #: Of T, S and A among the search tokens of all layers in this frame.
    shares: tuple[float, float, float]

    @property
    def total(self) -> float:
        """Seconds for a frame that is in memory."""
        return self.pre_processing + self.model + self.post_processing


def noise_scene() -> tuple[Image, Boxes]:
    """A frame of 1280 x 720 and a box (4,) in it, where nothing but the time that it takes matters."""
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    return frame, np.array([600.0, 320.0, 80.0, 80.0])


def measure_forms(
    model: GRM,
    frame: Image,
    box: ArrayLike,
    *,
    fixed: dict[int, str] | None = None,
    others: Mapping[str, GRM] | None = None,
    **options: Any,
) -> list[FormSpeed]:
    """Times a tracker in every form of `grm.evaluation.forms.FORMS`, as `measure_models` does.

    Args:
        model: a hard division, or none.
        frame: as of `measure_models`.
        box: as of `measure_models`.
        fixed: adds a form in which these layers are fixed, see `grm.tracking.calibration.fix_layers`.
        others: more models, by name, to be timed in the same run.
        options: as of `measure_models`.

    Returns:
        One for each form, the others at the end.

    Raises:
        MismatchError: on the same q, k, v and categories, two implementations of attention differ.

    """
    model = reconfigured(model, FORMS["fused"])
    forms = dict(FORMS)
    if fixed:
        forms["fused, layers fixed"] = (f"model.division.fixed={fixed}",)
    models = {form: reconfigured(model, overrides) for form, overrides in forms.items()}
    return measure_models({**models, **(others or {})}, frame, box, same=_SAME_ATTENTION, **options)


def measure_models(
    models: Mapping[str, GRM],
    frame: Image,
    box: ArrayLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    cuda_graph: bool | None = None,
    rounds: int = 20,
    same: Sequence[str] = (),
) -> list[FormSpeed]:
    """Times trackers, one frame of each in turn, so that all see the same machine.

    Args:
        models: by the names that the results have.
        frame: (height, width, 3).
        box: (4,) or (M, 4): targets in the frame, where they are also searched for, in every round.
        device: as of `Tracker`.
        dtype: as of `Tracker`.
        compile: as of `Tracker`.
        cuda_graph: as of `Tracker`.
        rounds: frames of each model.
        same: names of those whose attention is checked to give what the first one's gives.

    Raises:
        MismatchError: it does not.

    """
    trackers, attentions = {}, {}
    for name, model in models.items():
        network = TrackingNetwork(model, device, dtype, compile=compile, cuda_graph=cuda_graph)
        trackers[name] = Tracker(network)
        trackers[name].initialize(frame, box)
        attentions[name] = _attentions_of(trackers[name], network, frame)
    first = next(iter(models))
    for name in same:
        _check_attentions(attentions[first], attentions[name], f"{first} and {name}")

    seconds: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for index in range(_WARM_UP + rounds):
        for name, tracker in trackers.items():
            times = (*_time_frame(tracker, frame), _time_attention(attentions[name], torch.device(device)))
            if index >= _WARM_UP:
                seconds[name].append(times)
    columns = {name: list(zip(*times, strict=True)) for name, times in seconds.items()}
    return [
        FormSpeed(
            name,
            pre_processing=statistics.median(pre_processing),
            model=statistics.median(model_seconds),
            post_processing=statistics.median(post_processing),
            attention=statistics.median(attention),
            model_error=_error_of_median(model_seconds),
            shares=_shares([division for *_, division in attentions[name]]),
        )
        for name, (pre_processing, model_seconds, post_processing, attention) in columns.items()
    ]


def _shares(divisions: Iterable[Division]) -> tuple[float, float, float]:
    """Of T, S and A among the search tokens of all layers; of a soft division the means of their probabilities."""
    policies = [one_hot(d.categories) if d.categories is not None else d.policy for d in divisions]
    t, s, a = torch.stack([policy.float().mean((0, 1)) for policy in policies if policy is not None]).mean(0).tolist()
    return t, s, a


def _error_of_median(values: Sequence[float]) -> float:
    """The standard error of a median of normal values, from the median of their distances to it."""
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return math.sqrt(math.pi / 2 / len(values)) * deviation


def saving(before: FormSpeed, after: FormSpeed) -> tuple[float, float]:
    """Share of the network's time that one form saves against another, and its standard error."""
    ratio = after.model / before.model
    return 1 - ratio, ratio * math.hypot(before.model_error / before.model, after.model_error / after.model)


def time_parts(model: GRM, frame: Image, box: ArrayLike, *, dtype: torch.dtype, rounds: int = 10) -> dict[str, float]:
    """Seconds of the parts of the model for one frame on the CPU, medians over rounds, the largest first.

    Args:
        model: is copied and prepared.
        frame: (height, width, 3).
        box: (4,) of the target.
        dtype: that the network computes in.
        rounds: frames.

    """
    network = TrackingNetwork(model, "cpu", dtype)
    tracker = Tracker(network)
    tracker.initialize(frame, box)
    prepared = network.model
    layers = [module for module in prepared.modules() if isinstance(module, Layer)]
    parts: dict[str, list[nn.Module]] = {
        "stem": [prepared.encoder.stem],
        "q, k, v": [layer.attention.qkv for layer in layers],
        "division": [m for m in prepared.modules() if isinstance(m, TokenDivision)],
        "attention": [layer.attention for layer in layers],
        "output projection": [layer.attention.projection for layer in layers],
        "MLP": [layer.mlp for layer in layers],
        "head": [prepared.head],
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    with _timing(parts) as times:
        for _ in range(_WARM_UP + rounds):
            times.clear()
            start = time.perf_counter()
            tracker.locate(tracker.search_crops(frame)[1])
            times["all"] = time.perf_counter() - start
            # An attention module holds its projection to q, k, v and its division, and more.
            times["attention"] -= times["q, k, v"] + times["division"]
            for name in parts:
                spent[name].append(times[name])
            rest = times["all"] - sum(times[name] for name in parts)
            spent.setdefault("everything else", []).append(rest)
    medians = {name: statistics.median(values[-rounds:]) for name, values in spent.items()}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


class Agreement(NamedTuple):
    """How far a tracker in another dtype is from the one in float32, on the same search regions."""

    frames: int
    #: Mean over the frames of the IoU of the two boxes.
    mean_iou: float
    #: Share of the search tokens of all layers that are of another category.
    flips: float


def compare_dtypes(model: GRM, frames: Iterable[Image], box: ArrayLike, dtype: torch.dtype) -> Agreement:
    """Tracks in float32 and lets a network in another dtype look at the same crops.

    Args:
        model: is copied.
        frames: the first shows the target.
        box: (4,) in the first frame.
        dtype: to compare.

    Raises:
        ValueError: fewer than two frames.

    """
    exact, other = Tracker(model, dtype=torch.float32), Tracker(model, dtype=dtype)
    overlaps, flips = [], []
    for index, frame in enumerate(frames):
        if index == 0:
            exact.initialize(frame, box)
            other.initialize(frame, box)
            continue
        regions, crops = exact.search_crops(frame)
        expected = exact.accept(frame, regions, exact.locate(crops))
        got = other.accept(frame, regions, other.locate(crops))
        overlaps.append(float(iou(got.box, expected.box)))
        flips.append(float((got.division != expected.division).mean()))
    if not overlaps:
        raise ValueError("frames: expected two or more")
    return Agreement(len(overlaps), statistics.fmean(overlaps), statistics.fmean(flips))


Attended = tuple[Attention, Tensor, Division]


@torch.inference_mode()
def _attentions_of(tracker: Tracker, network: TrackingNetwork, frame: Image) -> list[Attended]:
    """What goes into the attention of every layer of a frame."""
    found: list[Attended] = []

    def keep(attention: Attention, inputs: tuple[Tensor], output: tuple[Tensor, Division]) -> None:
        found.append((attention, attention.project(inputs[0])[0], output[1]))

    attentions = [module for module in network.model.modules() if isinstance(module, Attention)]
    handles = [attention.register_forward_hook(keep) for attention in attentions]
    try:
        network.model(tracker.template, network.images(tracker.search_crops(frame)[1]))
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.inference_mode()
def _check_attentions(first: list[Attended], other: list[Attended], names: str) -> None:
    for number, ((one, qkv, division), (two, *_)) in enumerate(zip(first, other, strict=True), start=1):
        expected, got = two.attend(qkv, division).float(), one.attend(qkv, division).float()
        # Weights and result are rounded to the dtype, in each of the two: a few roundings of the largest value.
        allowed = 16 * torch.finfo(qkv.dtype).eps * qkv[:, :, 2].float().abs().max()
        error = (expected - got).abs().max()
        if not error <= allowed:
            raise MismatchError(f"layer {number}: {names} attention differ by {error:.2e} > {allowed:.2e}")


def _time_frame(tracker: Tracker, frame: Image) -> tuple[float, float, float]:
    boxes = tracker.boxes
    start = time.perf_counter()
    regions, crops = tracker.search_crops(frame)
    cropped = time.perf_counter()
    located = tracker.locate(crops)
    seen = time.perf_counter()
    tracker.accept(frame, regions, located)
    end = time.perf_counter()
    tracker.boxes = boxes
    return cropped - start, seen - cropped, end - seen


@torch.inference_mode()
def _time_attention(attentions: list[Attended], device: torch.device) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for attention, qkv, division in attentions:
        attention.attend(qkv, division)
    wait()
    return time.perf_counter() - start


@contextmanager
def _timing(parts: dict[str, list[nn.Module]]) -> Iterator[dict[str, float]]:
    """Adds up, for every part, the seconds that its modules run."""
    times: dict[str, float] = defaultdict(float)
    handles = []
    for name, modules in parts.items():

        def begin(module: nn.Module, inputs: object, name: str = name) -> None:
            times[name] -= time.perf_counter()

        def end(module: nn.Module, inputs: object, output: object, name: str = name) -> None:
            times[name] += time.perf_counter()

        for module in modules:
            handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()
