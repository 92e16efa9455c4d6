"""A GRM model made ready to track: crops in, predictions out."""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ModelConfig
from ..crop import Image
from ..model import GRM, Division, normalize_images
from ..model.encoder import check_backend


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

    def __call__(self, template: Any, crops: list[Image]) -> Located:
        """Finds M targets, given what `template_tokens` made of their templates, in their search crops."""


class TrackingNetwork:
    """Runs a model on uint8 crops: moves and normalises them, multiplies the scores by the window.

    Args:
        model: is copied, and may be used and trained on.
        device: to run on, such as "cpu" or "cuda"; None: where the model is.
        dtype: of weights and activations: float32, bfloat16 or float16. Boxes are computed in float32.
        compile: whether torch.compile makes one graph of a step, anew for every number of targets (a minute or so).
        cuda_graph: whether the kernels of a step are recorded once for every number of targets, and replayed: on a
            GPU, one launch for a frame.

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
        cuda_graph: bool = False,
    ):
        device = torch.device(next(model.parameters()).device if device is None else device)
        check_backend(model.config.encoder, device, dtype)
        if cuda_graph and device.type != "cuda":
            raise ValueError(f"cuda_graph: expected a CUDA device, got {device}")
        self.config = model.config
        self.device = device
        self.dtype = dtype
        self.model = model.prepare_inference(device, dtype, pack=not compile)
        window = torch.hann_window(model.config.search_side + 2, periodic=False, device=device)[1:-1]
        #: (F, F): multiplies the scores for the choice of the cell.
        self.window = torch.outer(window, window)
        self._step = torch.compile(self._forward, dynamic=False) if compile else self._forward
        self._graphs: dict[int, _RecordedStep] | None = {} if cuda_graph else None

    @torch.inference_mode()
    def template_tokens(self, crops: list[Image], boxes: NDArray[np.floating]) -> Tensor:
        """Tokens (M, N, width) of the templates of M targets, to be computed once.

        Args:
            crops: (size, size, 3) each.
            boxes: (M, 4) of the targets in them: centre x, centre y, width, height in sides of the crop.

        """
        told = torch.from_numpy(boxes.astype(np.float32)).to(self.device)
        return self.model.template_tokens(self.images(crops), told)

    def images(self, crops: list[Image]) -> Tensor:
        """Crops (size, size, 3) as the model reads them: (M, 3, size, size), normalised, in its dtype, where it is."""
        return normalize_images(self._moved(crops), self.dtype)

    @torch.inference_mode()
    def __call__(self, template: Tensor, crops: list[Image]) -> Located:
        """Finds M targets, given the tokens of their templates, in their search crops."""
        searches = self._moved(crops)
        if self._graphs is None:
            boxes, divisions = self._step(template, searches)
        else:
            if len(crops) not in self._graphs:
                self._graphs[len(crops)] = _RecordedStep(self._step, template, searches)
            boxes, divisions = self._graphs[len(crops)](template, searches)
        boxes, divisions = boxes.cpu().numpy(), divisions.cpu().numpy()
        return Located(boxes[:, :4], boxes[:, 4], divisions)

    def _moved(self, crops: list[Image]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2)

    def _forward(self, template: Tensor, searches: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.model(template, normalize_images(searches, self.dtype), self.window)
        side = self.config.search_side
        divisions = torch.stack([_decided(division) for division in prediction.divisions], dim=1)
        boxes = torch.cat([prediction.boxes, prediction.scores.unsqueeze(1)], dim=1)
        return boxes, divisions.unflatten(2, (side, side))


class _RecordedStep:
    """A step recorded as a CUDA graph for one number of targets, with inputs and outputs of its own."""

    def __init__(self, step, *inputs: Tensor):
        self._step = step
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # kernels are compiled and workspaces allocated before the recording
                step(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = step(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._outputs


def _decided(division: Division) -> Tensor:
    if division.categories is not None:
        return division.categories
    return division.policy.argmax(-1).to(torch.uint8)
