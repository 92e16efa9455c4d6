"""Which backend serves a call, and why the others do not."""

from collections.abc import Callable

from torch import Tensor

from . import cpu, triton


def _none(q: Tensor, *, needs_grad: bool) -> list[str]:
    return []


def _not_in_this_version(q: Tensor, *, needs_grad: bool) -> list[str]:
    return ["not part of this version"]


#: Every backend, with the function that lists what keeps it from serving a call: (q, needs_grad) to reasons, none if it
#: can. The other arguments are alike q in shape, dtype and device by then.
BACKENDS: dict[str, Callable[..., list[str]]] = {
    "cuda": _not_in_this_version,
    "triton": triton.not_supported_reasons,
    "cpu": cpu.not_supported_reasons,
    "reference": _none,
}

#: The order of the automatic choice by device type. The reference always serves: what stands after it has to be named,
#: which on the CPU keeps Triton's interpreter for tests.
_PREFERENCE = {"cuda": ("cuda", "triton", "reference", "cpu")}
_PREFERENCE_ELSEWHERE = ("cpu", "reference", "triton", "cuda")


def choose(q: Tensor, backend: str | None, *, needs_grad: bool) -> str:
    """The backend that serves a call with this q: the one named, or the first that can.

    Raises:
        ValueError: `backend` is unknown, or cannot serve; the message lists its reasons.

    """
    if backend is None:
        return next(name for name in _preference(q) if not BACKENDS[name](q, needs_grad=needs_grad))
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected None or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    reasons = BACKENDS[backend](q, needs_grad=needs_grad)
    if reasons:
        raise ValueError(f"backend: {backend!r} cannot serve {_describe(q)}: {'; '.join(reasons)}")
    return backend


def explain(q: Tensor, *, needs_grad: bool = False) -> dict[str, list[str]]:
    """Why each backend cannot serve a call with this q, in the order of the automatic choice.

    Args:
        q: (B, H, N, D), the tensor that would be passed; only its shape, dtype and device are looked at.
        needs_grad: whether a gradient will be asked for.

    Returns:
        Backend name to reasons. The first backend without any is the one that `backend=None` takes.

    """
    return {name: BACKENDS[name](q, needs_grad=needs_grad) for name in _preference(q)}


def _preference(q: Tensor) -> tuple[str, ...]:
    return _PREFERENCE.get(q.device.type, _PREFERENCE_ELSEWHERE)


def _describe(q: Tensor) -> str:
    b, h, n, d = q.shape
    return f"B={b}, H={h}, N={n}, D={d}, {q.dtype} on {q.device}"
