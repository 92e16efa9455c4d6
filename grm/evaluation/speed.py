"""How fast the tracker is: the paper's forms of attention side by side, and where the time of a frame goes."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..boxes import Boxes, iou
from ..crop import Image, crop_image, crop_region
from ..errors import MismatchError
from ..model import GRM, Division, normalize_images, reconfigured
from ..model.division import TokenDivision
from ..model.encoder import Attention, Layer
from ..tracking.network import TrackingNetwork
from ..tracking.tracker import Tracker

#: What is compared, as overrides of the model's configuration: three implementations of GRM's attention, and the two
#: forms without a division (the paper's Table 4, #1 and #2).
FORMS: dict[str, tuple[str, ...]] = {
    "fused": (),
    "masked": ("model.encoder.attention=masked", "model.encoder.backend=null"),
    "separate": ("model.encoder.attention=separate", "model.encoder.backend=null"),
    "two-stream": ("model.division={variant: two_stream}",),
    "one-stream": ("model.division={variant: one_stream}",),
}
_SAME_ATTENTION = ("masked", "separate")
_WARM_UP = 3


class FormSpeed(NamedTuple):
    """Medians over the rounds, in seconds for a frame."""

    form: str
    #: Cutting out and scaling the search region.
    pre_processing: float
    #: From the uint8 crop to boxes and scores, copies included.
    model: float
    #: Mapping to the frame and clipping.
    post_processing: float
    #: The attention of all layers alone, on the q, k, v and categories of this frame: a part of `model`.
    attention: float
    #: How far the median of `model` may be off: its standard error, by the median absolute deviation.
    model_error: float

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
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    cuda_graph: bool = False,
    fixed: dict[int, str] | None = None,
    rounds: int = 20,
) -> list[FormSpeed]:
    """Times a tracker in every form of `FORMS`, one frame of each in turn, so that all see the same machine.

    Args:
        model: a hard division into two (variant "sa" or "ts"), or none.
        frame: (height, width, 3).
        box: (4,) or (M, 4): targets in the frame, where they are also searched for, in every round.
        device: as of `Tracker`.
        dtype: as of `Tracker`.
        compile: as of `Tracker`.
        cuda_graph: as of `Tracker`.
        fixed: adds a form in which these layers are fixed, see `grm.tracking.calibration.fix_layers`.
        rounds: frames of each form.

    Returns:
        One for each form.

    Raises:
        MismatchError: on the same q, k, v and categories, two implementations of attention differ.

    """
    model = reconfigured(model, ("model.encoder.attention=fused",))
    forms = dict(FORMS)
    if fixed:
        forms["fused, layers fixed"] = (f"model.division.fixed={fixed}",)
    trackers, attentions = {}, {}
    for form, overrides in forms.items():
        network = TrackingNetwork(reconfigured(model, overrides), device, dtype, compile=compile, cuda_graph=cuda_graph)
        trackers[form] = Tracker(network)
        trackers[form].initialize(frame, box)
        attentions[form] = _attentions_of(trackers[form], network, frame)
    _check_attentions(attentions)

    seconds: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for index in range(_WARM_UP + rounds):
        for form, tracker in trackers.items():
            times = (*_time_frame(tracker, frame), _time_attention(attentions[form], torch.device(device)))
            if index >= _WARM_UP:
                seconds[form].append(times)
    columns = {form: list(zip(*times, strict=True)) for form, times in seconds.items()}
    return [
        FormSpeed(
            form,
            pre_processing=statistics.median(pre_processing),
            model=statistics.median(model_seconds),
            post_processing=statistics.median(post_processing),
            attention=statistics.median(attention),
            model_error=_error_of_median(model_seconds),
        )
        for form, (pre_processing, model_seconds, post_processing, attention) in columns.items()
    ]


def _error_of_median(values: Sequence[float]) -> float:
    """The standard error of a median of normal values, from the median of their distances to it."""
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return math.sqrt(math.pi / 2 / len(values)) * deviation


def saving(before: FormSpeed, after: FormSpeed) -> tuple[float, float]:
    """Share of the network's time that one form saves against another, and its standard error."""
    ratio = after.model / before.model
    return 1 - ratio, ratio * math.hypot(before.model_error / before.model, after.model_error / after.model)


def balance_division(model: GRM, frame: Image, box: ArrayLike, share: float) -> None:
    """Shifts the division modules' biases so that in this frame a share of the search tokens is S in every layer.

    New weights divide in no meaningful way; how fast masks and gathered attention are depends on the share. In place.

    Args:
        model: a hard division into two.
        frame: (height, width, 3).
        box: (4,) of the target.
        share: from 0 to 1.

    """

    def shift(module: TokenDivision, inputs: tuple[Tensor]) -> None:
        logits = module.logits(inputs[0]).float()
        score = (logits[..., 1] - logits[..., 0]).flatten().sort().values
        rank = round(share * (len(score) - 1))
        # Between two tokens, so that rounding turns none of them over.
        boundary = (score[rank] + score[min(rank + 1, len(score) - 1)]) / 2
        module.third.bias.data[1] += module.margin - boundary.to(module.third.bias.dtype)

    modules = [module for module in model.modules() if isinstance(module, TokenDivision)]
    handles = [module.register_forward_pre_hook(shift) for module in modules]
    model.eval()
    try:
        with torch.no_grad():
            _run_once(model, frame, box)
    finally:
        for handle in handles:
            handle.remove()


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


def _run_once(model: GRM, frame: Image, box: ArrayLike) -> None:
    crops = []
    for config in (model.config.template, model.config.search):
        crop = crop_image(frame, crop_region(np.atleast_2d(box)[0], config.factor), config.size)
        crops.append(normalize_images(torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0)))
    model(*crops)


Attended = tuple[Attention, Tensor, Tensor, Tensor, Division]


@torch.inference_mode()
def _attentions_of(tracker: Tracker, network: TrackingNetwork, frame: Image) -> list[Attended]:
    """What goes into the attention of every layer of a frame."""
    found: list[Attended] = []

    def keep(attention: Attention, inputs: tuple[Tensor], output: tuple[Tensor, Division]) -> None:
        q, k, v = attention.heads_of(inputs[0])
        found.append((attention, q, k, v, output[1]))

    attentions = [module for module in network.model.modules() if isinstance(module, Attention)]
    handles = [attention.register_forward_hook(keep) for attention in attentions]
    try:
        network.model(tracker.template, network.images(tracker.search_crops(frame)[1]))
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.inference_mode()
def _check_attentions(attentions: dict[str, list[Attended]]) -> None:
    for form in _SAME_ATTENTION:
        pairs = zip(attentions["fused"], attentions[form], strict=True)
        for number, ((fused, q, k, v, division), (other, *_)) in enumerate(pairs, start=1):
            expected, got = other.attend(q, k, v, division).float(), fused.attend(q, k, v, division).float()
            # Weights and result are rounded to the dtype, in each of the two: a few roundings of the largest value.
            allowed = 16 * torch.finfo(q.dtype).eps * v.float().abs().max()
            error = (expected - got).abs().max()
            if not error <= allowed:
                raise MismatchError(f"layer {number}: fused and {form} attention differ by {error:.2e} > {allowed:.2e}")


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
    for attention, q, k, v, division in attentions:
        attention.attend(q, k, v, division)
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
