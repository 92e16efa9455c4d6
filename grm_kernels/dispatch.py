"""Which backend serves a call, and why the others do not."""

import sys
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from . import cpu, cuda, triton


def _none(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    return []


#: Every backend, with the function that lists what keeps it from serving a call: (q, needs_grad, soft) to reasons, none
#: if it can. The other arguments are alike q in shape, dtype and device by then.
BACKENDS: dict[str, Callable[..., list[str]]] = {
    "cuda": cuda.not_supported_reasons,
    "triton": triton.not_supported_reasons,
    "cpu": cpu.not_supported_reasons,
    "reference": _none,
}


def choose(q: Tensor, backend: str | None, *, needs_grad: bool, soft: bool = False) -> str:
    """The backend that serves a call with this q: the one named, or the first that can.

    Raises:
        ValueError: `backend` is unknown, or cannot serve; the message lists its reasons.

    """
    # First what nearly every call on a CPU takes, as fast as it can be asked.
    if (backend is None or backend == "cpu") and q.is_cpu and cpu.serves(q.dtype, q.shape[-1]):
        return "cpu"
    if backend is None:
        order = _preference(q, needs_grad)
        for name in order:
            if not BACKENDS[name](q, needs_grad=needs_grad, soft=soft):
                if name == "reference" and not torch.compiler.is_compiling():
                    _warn_of_the_reference(order[0], "; ".join(BACKENDS[order[0]](q, needs_grad=needs_grad, soft=soft)))
                return name
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected None or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    reasons = BACKENDS[backend](q, needs_grad=needs_grad, soft=soft)
    if reasons:
        raise ValueError(f"backend: {backend!r} cannot serve {_describe(q)}: {'; '.join(reasons)}")
    return backend


@cache
def _warn_of_the_reference(backend: str, reasons: str) -> None:
    """Says once for every reason why a call is slow, and names the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("grm_kernels."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        "category_attention: served by the slow reference, which forms the N x N matrix: "
        f"backend {backend!r} {reasons} (explain(q) lists all backends)",
        stacklevel=level,
    )


def explain(q: Tensor, *, needs_grad: bool = False, soft: bool = False) -> dict[str, list[str]]:
    """Why each backend cannot serve a call with this q, in the order of the automatic choice.

    Args:
        q: (B, H, N, D), the tensor that would be passed; only its shape, dtype and device are looked at.
        needs_grad: whether a gradient will be asked for.
        soft: whether the policy's values will count.

    Returns:
        Backend name to reasons. The first backend without any is the one that `backend=None` takes.

    """
    order = _preference(q, needs_grad)
    return {name: BACKENDS[name](q, needs_grad=needs_grad, soft=soft) for name in order}


def _preference(q: Tensor, needs_grad: bool) -> tuple[str, ...]:
    """The order of the automatic choice.

    The reference always serves: what stands after it has to be named, which on the CPU keeps Triton's interpreter for
    tests.
    """
    if q.device.type != "cuda":
        return "cpu", "reference", "triton", "cuda"
    first = ("cuda", "triton") if cuda.is_faster(q, needs_grad=needs_grad) else ("triton", "cuda")
    return *first, "reference", "cpu"


def _describe(q: Tensor) -> str:
    b, h, n, d = q.shape
    return f"B={b}, H={h}, N={n}, D={d}, {q.dtype} on {q.device}"
