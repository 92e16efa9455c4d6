"""The compiled CPU kernels (csrc/cpu): loading, the instruction set in use, and what they support."""

import os
import warnings

import torch
from torch import Tensor

try:
    from . import _C
except ImportError as error:
    _C = None
    #: Why the compiled kernels are missing; None when they are there.
    unavailable: str | None = (
        "the compiled kernels are not installed (there was no C++ compiler, or GRM_KERNELS_BUILD=0)"
        if error.name == f"{__package__}._C" or "cannot import name '_C'" in str(error)
        else f"the compiled kernels do not load: {error}"
    )
else:
    unavailable = None

#: Environment variable that names the instruction set to use, instead of the best that the machine has.
ENVIRONMENT_VARIABLE = "GRM_KERNELS_CPU"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def instruction_sets() -> list[str]:
    """The instruction sets that were compiled and that this machine can run, the best first."""
    return _C.instruction_sets() if _C else []


def instruction_set() -> str | None:
    """The instruction set in use; None without the compiled kernels."""
    return _C.instruction_set() if _C else None


def build() -> str | None:
    """Compiler and torch that the kernels were built with; None without the compiled kernels."""
    return f"compiler {_C.compiler}, torch {_C.built_with_torch}" if _C else None


def set_instruction_set(name: str) -> None:
    """Uses the kernels compiled for `name`, one of `instruction_sets()`, from the next call on.

    Raises:
        ValueError: `name` was not compiled, or this machine cannot run it.

    """
    if name not in instruction_sets():
        raise ValueError(f"instruction set: expected one of {', '.join(instruction_sets())}, got {name!r}")
    _C.set_instruction_set(name)


def not_supported_reasons(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the CPU kernels from serving a call with this q; nothing if they can."""
    reasons = []
    if unavailable:
        reasons.append(unavailable)
    if q.device.type != "cpu":
        reasons.append(f"needs tensors on the CPU, got {q.device}")
    if q.dtype not in _DTYPES:
        reasons.append(f"needs float32, bfloat16 or float16, got {q.dtype}")
    d = q.shape[-1]
    if d % 8 or not 8 <= d <= 128:
        reasons.append(f"needs D to be a multiple of 8 from 8 to 128, got {d}")
    return reasons


if unavailable:
    warnings.warn(f"grm_kernels: {unavailable}; tensors on the CPU are served by the slow reference", stacklevel=2)
if _C and os.environ.get(ENVIRONMENT_VARIABLE):
    try:
        set_instruction_set(os.environ[ENVIRONMENT_VARIABLE])
    except ValueError as error:
        raise ValueError(f"environment variable {ENVIRONMENT_VARIABLE}: {error}") from None
