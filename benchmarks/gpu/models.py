"""The tracker and the training step on a GPU, in the forms of attention that are compared."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.compare import WrongResultError
from benchmarks.gpu.device import Gpu
from benchmarks.training import Case, Stopwatch, check_agreement, make_batch, make_step, timed_attention
from grm.boxes import iou
from grm.config import load_config
from grm.evaluation.forms import FORMS, balance_division
from grm.evaluation.speed import noise_scene
from grm.model import GRM, reconfigured
from grm.tracking import Tracker
from grm.training import Processes
from grm.training.stream import Position

_WARM_UP = 3
#: Overlap of the boxes of two forms or modes that compute the same, or, where rounding has chosen another cell, how far
#: apart their scores may be.
_SAME_BOX, _SAME_SCORE = 0.9, 0.02


class TrackedForms:
    """The tracker with new weights, half of the search tokens in S, in one mode; all forms take turns.

    The form with layers fixed has every second dividing layer all S. "separate" asks the host, so no graph can hold it.
    """

    def __init__(self, device: Gpu, preset: str, mode: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        model = GRM(load_config(preset).model)
        self._frame, self._box = noise_scene()
        balance_division(model, self._frame, self._box, 0.5)
        fixed = dict.fromkeys(model.config.division_layers[::2], "S")
        forms = {**FORMS, "layers fixed": (f"model.division.fixed={fixed}",)}
        if mode != "eager":
            forms = {form: forms[form] for form in ("fused", "two-stream", "layers fixed")}
        self._models = {form: reconfigured(model, overrides) for form, overrides in forms.items()}
        self._masked = reconfigured(model, FORMS["masked"])
        self._device, self._dtype, self._options = device, dtype, device.tracker_options(mode)

    def measure(self, item: dict) -> dict:
        """Median seconds of a frame, and its launches, by form.

        Raises:
            WrongResultError: the boxes of the fused form are not those of the masked one run eagerly.

        """
        count = item["targets"]
        boxes = np.tile(self._box, (count, 1)) + np.linspace(0, 200, count)[:, None] * [1, 0, 0, 0]
        trackers = {form: self._tracker(model, boxes, self._options) for form, model in self._models.items()}
        expected = self._tracker(self._masked, boxes, {}).track(self._frame)
        got = trackers["fused"].track(self._frame)
        overlap = iou(got.box, expected.box)
        same = (overlap >= _SAME_BOX) | (np.abs(got.score / expected.score - 1) <= _SAME_SCORE)
        if not same.all():
            raise WrongResultError(f"fused: IoU of its boxes with those of the masked form is {overlap.min():.3f}")
        seconds: dict[str, list[float]] = {form: [] for form in trackers}
        for _ in range(_WARM_UP + self._device.rounds):
            for form, tracker in trackers.items():
                tracker.boxes = boxes
                start = time.perf_counter()
                tracker.track(self._frame)  # boxes come back to the host: it is over then
                seconds[form].append(time.perf_counter() - start)
        result = {}
        for form, tracker in trackers.items():
            tracker.boxes = boxes
            launches = self._device.launches(lambda tracker=tracker: tracker.track(self._frame))
            result[form] = {"seconds": statistics.median(seconds[form][_WARM_UP:]), "launches": launches}
        return {"forms": result, "iou_with_masked": float(overlap.mean())}

    def _tracker(self, model: GRM, boxes: np.ndarray, options: dict[str, bool]) -> Tracker:
        tracker = Tracker(model, device=self._device.name, dtype=self._dtype, **options)
        tracker.initialize(self._frame, boxes)
        return tracker


class TrainingForms:
    """The trainer's step of a preset, on pairs of noise, with each form of attention."""

    def __init__(self, device: Gpu, preset: str, batch: int, precision: str) -> None:
        self._device = device
        self._case = Case(preset, batch, precision)
        self._processes = Processes(0, 1, torch.device(device.name))
        self._masked = make_step(self._case, "masked", self._processes)
        self._batch = make_batch(self._masked.config, batch)

    def measure(self, item: dict) -> dict:
        """Median seconds of a step and the most memory that it holds.

        Raises:
            WrongResultError: the form's loss or gradients are wrong.

        """
        form = item["form"]
        step = self._masked
        if form != "masked":
            step = make_step(self._case, form, self._processes)
            check_agreement(self._case, form, step, self._masked, self._batch)
        numbers = iter(range(10**6))

        def run() -> None:
            step([self._batch], [Position(next(numbers), 0)], epoch_steps=10**9)
            self._device.synchronize()

        with timed_attention(form, Stopwatch()):
            run()
            peak = self._device.peak_bytes(run)
            seconds = [_seconds(run) for _ in range(self._device.rounds)]
        return {"seconds": statistics.median(seconds), "peak_bytes": peak}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
