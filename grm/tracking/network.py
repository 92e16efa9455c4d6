"""A GRM model made ready to track: crops in, predictions out."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ModelConfig
from ..crop import Image, crop_image
from ..model import GRM, Division, normalize_images
from ..model.encoder import check_backend
from .device_crop import PackedCrops, View, cut_crops, pack_crops
from .recorded import RecordedStep

# Of a target: x, y, width, height and score in float32.
_BOX_BYTES = 20


class Located(NamedTuple):
    """Where the network sees M targets in M search crops of F x F tokens."""

    #: (M, 4): centre x, centre y, width, height in sides of the crop; not clipped.
    boxes: NDArray[np.float32]
    #: (M,) in [1e-4, 1 - 1e-4].
    scores: NDArray[np.float32]
    #: (M, layers, F, F), values of `grm_kernels.Category`; with the soft policy the most probable one.
    divisions: NDArray[np.uint8]


class Network(Protocol):
    """What a `Tracker` asks of a network: a model prepared to track, here or in another engine."""

    #: Sizes and factors of the crops, and the number of layers.
    config: ModelConfig

    def template_tokens(self, crops: list[Image], boxes: NDArray[np.floating]) -> Any:
        """What is computed once of the template crops (size, size, 3) of M targets, and of the targets' boxes in them
        (M, 4), centre x, centre y, width, height in sides of the crop; for `__call__`.
        """

    def __call__(self, template: Any, crops: Any) -> Located:
        """Finds M targets, given what `template_tokens` made of their templates, in their search crops.

        The crops are a list of (size, size, 3); of a network that has a method `crops(views)`, what that made of frames
        and their regions.
        """


class TrackingNetwork:
    """Runs a model on search regions: cuts them out and normalises them, multiplies the scores by the window.

    On a GPU one copy takes a frame there, and one brings back what was found in it. (Neither has run on hardware.)

    Args:
        model: is copied, and may be used and trained on.
        device: to run on, such as "cpu" or "cuda"; None: where the model is.
        dtype: of weights and activations: float32, bfloat16 or float16. Boxes are computed in float32.
        compile: whether torch.compile makes one graph of the model, anew for every number of targets (a minute or so).
        cuda_graph: whether the kernels of a step are recorded once for every number of targets, and replayed: on a
            GPU, one launch for a frame. None: on a GPU.
        crop_on_device: whether crops are cut out where the model is, by `grm.tracking.device_crop`, or by OpenCV. None:
            on a GPU.

    Raises:
        ConfigError: the backend that the configuration names cannot serve there.
        ValueError: a CUDA graph on a device that is not a CUDA GPU.

    """

    def __init__(
        self,
        model: GRM,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        compile: bool = False,
        cuda_graph: bool | None = None,
        crop_on_device: bool | None = None,
    ):
        device = torch.device(next(model.parameters()).device if device is None else device)
        check_backend(model.config.encoder, device, dtype)
        on_gpu = device.type == "cuda"
        if cuda_graph and not on_gpu:
            raise ValueError(f"cuda_graph: expected a CUDA device, got {device}")
        self.config = model.config
        self.device = device
        self.dtype = dtype
        self.model = model.prepare_inference(device, dtype, pack=not compile)
        window = torch.hann_window(model.config.search_side + 2, periodic=False, device=device)[1:-1]
        #: (F, F): multiplies the scores for the choice of the cell.
        self.window = torch.outer(window, window)
        self._run = torch.compile(self._forward, dynamic=False) if compile else self._forward
        self._crop_on_device = on_gpu if crop_on_device is None else crop_on_device
        records = on_gpu if cuda_graph is None else cuda_graph
        self._steps: dict[tuple[int, bool], RecordedStep] | None = {} if records else None

    @torch.inference_mode()
    def template_tokens(self, crops: list[Image], boxes: NDArray[np.floating]) -> Tensor:
        """Tokens (M, N, width) of the templates of M targets, to be computed once.

        Args:
            crops: (size, size, 3) each.
            boxes: (M, 4) of the targets in them: centre x, centre y, width, height in sides of the crop.

        """
        told = torch.from_numpy(boxes.astype(np.float32)).to(self.device)
        return self.model.template_tokens(self.images(crops), told)

    def crops(self, views: Sequence[View]) -> list[Image] | PackedCrops:
        """Search crops (size, size, 3) of M regions of frames; or, where the device cuts them out, what it needs."""
        if self._crop_on_device:
            return pack_crops(views, pinned=self.device.type == "cuda")
        return cut_views(views, self.config.search.size)

    def images(self, crops: list[Image] | PackedCrops) -> Tensor:
        """Crops as the model reads them: (M, 3, size, size), normalised, in its dtype, where it is."""
        count, data = self._as_bytes(crops)
        return normalize_images(self._cut(data.to(self.device), count), self.dtype)

    @torch.inference_mode()
    def __call__(self, template: Tensor, crops: list[Image] | PackedCrops) -> Located:
        """Finds M targets, given the tokens of their templates, in their search crops."""
        count, data = self._as_bytes(crops)
        if self._steps is None:
            found = self._step(template, data.to(self.device, non_blocking=True), count)
        else:
            key = len(template), count is None
            if key not in self._steps or not self._steps[key].holds(template, data):
                self._steps[key] = RecordedStep(lambda *inputs: self._step(*inputs, count), template, data, self.device)
            found = self._steps[key](template, data)
        return self._located(_downloaded(found))

    def _as_bytes(self, crops: list[Image] | PackedCrops) -> tuple[int | None, Tensor]:
        """What goes to the device, and how many crops it holds for the device to cut out; None: they are cut out."""
        if isinstance(crops, PackedCrops):
            return crops.regions, crops.data
        return None, torch.from_numpy(np.stack(crops))

    def _cut(self, data: Tensor, count: int | None) -> Tensor:
        return data.permute(0, 3, 1, 2) if count is None else cut_crops(data, count, self.config.search.size)

    def _step(self, template: Tensor, data: Tensor, count: int | None) -> Tensor:
        """All that is done of a frame on the device: (M, bytes) uint8, of box and score, then of the divisions."""
        boxes, divisions = self._run(template, self._cut(data, count))
        return torch.cat([boxes.float().contiguous().view(torch.uint8), divisions.flatten(1)], dim=1)

    def _located(self, found: NDArray[np.uint8]) -> Located:
        boxes = np.ascontiguousarray(found[:, :_BOX_BYTES]).view(np.float32)
        side = self.config.search_side
        return Located(boxes[:, :4], boxes[:, 4], found[:, _BOX_BYTES:].reshape(len(found), -1, side, side))

    def _forward(self, template: Tensor, searches: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.model(template, normalize_images(searches, self.dtype), self.window)
        divisions = torch.stack([_decided(division) for division in prediction.divisions], dim=1)
        return torch.cat([prediction.boxes, prediction.scores.unsqueeze(1)], dim=1), divisions


def cut_views(views: Sequence[View], size: int) -> list[Image]:
    """The regions of some frames, each cut out by OpenCV: (size, size, 3)."""
    return [crop_image(frame, region, size) for frame, regions in views for region in regions]


def _downloaded(found: Tensor) -> NDArray[np.uint8]:
    """What a device has found, once it has."""
    if found.device.type != "cuda":
        return found.to("cpu", copy=True).numpy()
    host = torch.empty_like(found, device="cpu", pin_memory=True)
    host.copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return host.numpy()


def _decided(division: Division) -> Tensor:
    if division.categories is not None:
        return division.categories
    return division.policy.argmax(-1).to(torch.uint8)
