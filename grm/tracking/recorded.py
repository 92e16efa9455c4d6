"""A step of the tracker recorded as a CUDA graph, to be replayed with one launch. It has not run on hardware."""

from collections.abc import Callable

import torch
from torch import Tensor

# Kernels are compiled and workspaces allocated before the recording.
_WARM_UP = 3


class RecordedStep:
    """A step for one number of targets, with inputs of its own.

    Args:
        step: of template and data, which gives one tensor.
        template: of the first frame.
        data: of the first frame: one tensor of any size, or bytes (n,), of which a later frame may have fewer.
        device: of the step.

    """

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], template: Tensor, data: Tensor, device: torch.device):
        self._template = template.clone()
        self._data = torch.empty_like(data, device=device)
        self._data.copy_(data)
        self._replay, self._result = record(lambda: step(self._template, self._data), device)

    def holds(self, template: Tensor, data: Tensor) -> bool:
        """Whether a frame has the sizes that were recorded."""
        fits = data.shape == self._data.shape or (data.dim() == 1 and len(data) <= len(self._data))
        return fits and template.shape == self._template.shape

    def __call__(self, template: Tensor, data: Tensor) -> Tensor:
        """Runs the step, of which the result lasts until the next."""
        self._template.copy_(template)
        self._data[: len(data)].copy_(data, non_blocking=True)
        self._replay()
        return self._result


def record(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Records what a call launches on a GPU: how to launch it all again, and the tensor that is then filled."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
    return graph.replay, result
