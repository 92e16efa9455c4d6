"""What is compared on a GPU, by the names that `benchmarks.gpu.plan` gives it."""

import importlib
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.device import Gpu
from benchmarks.tables import BACKWARD, FORWARD
from benchmarks.workload import BASELINES, Implementation, Inputs, block_mask, masked, ours


def implementation(device: Gpu, name: str) -> Implementation:
    """The implementation of this name; "module:attribute" is one of another module.

    Raises:
        ValueError: there is none.

    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    kind, _, detail = name.rpartition(", ")
    if kind == "ours":
        return Implementation(name, partial(ours, backend=detail), backend=detail)
    if kind == "SDPA, dense" and detail in device.dense():
        return Implementation(name, partial(_sdpa, device.dense()[detail]), (FORWARD, BACKWARD), exact=False)
    if name == "masked (paper), compiled":
        return Implementation(name, device.compile(masked))
    if name in ("FlexAttention + mask", "FlexAttention, mask at hand"):
        at_hand = "at hand" in name
        return Implementation(name, _Flex(device, at_hand), (FORWARD, BACKWARD), capturable=at_hand)
    found = next((baseline for baseline in BASELINES if baseline.name == name), None)
    if found is None:
        raise ValueError(f"implementation: expected a name of benchmarks.gpu.plan or module:attribute, got {name!r}")
    return found


def _sdpa(kind: torch.nn.attention.SDPBackend, x: Inputs) -> Tensor:
    with torch.nn.attention.sdpa_kernel(kind):
        return torch.nn.functional.scaled_dot_product_attention(*x.leaves)


class _Flex:
    """FlexAttention; its block mask is built in the call, as a tracker has to, or once for the same categories."""

    def __init__(self, device: Gpu, at_hand: bool) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        self._create, self._attend = device.compile(create_block_mask), device.compile(flex_attention)
        self._at_hand = at_hand
        # The inputs stay alive, so that no other ones get their number.
        self._masks: dict[int, tuple[Inputs, object]] = {}

    def __call__(self, x: Inputs) -> Tensor:
        if not self._at_hand:
            return self._attend(*x.leaves, block_mask=block_mask(x, self._create))
        if id(x) not in self._masks:
            self._masks[id(x)] = x, block_mask(x, self._create)
        return self._attend(*x.leaves, block_mask=self._masks[id(x)][1])
