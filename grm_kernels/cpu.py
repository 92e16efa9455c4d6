"""The compiled CPU kernels (csrc/cpu): the instruction set in use, and what they support."""

import os
import warnings

import torch
from torch import Tensor

from . import extension

#: Environment variable that names the instruction set to use, instead of the best that the machine has.
ENVIRONMENT_VARIABLE = "GRM_KERNELS_CPU"

#: The largest D that is served.
MAX_CHANNELS = 256

_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))


def instruction_sets() -> list[str]:
    """The instruction sets that were compiled and that this machine can run, the best first."""
    return extension.module.instruction_sets() if extension.module else []


def instruction_set() -> str | None:
    """The instruction set in use; None without the compiled kernels."""
    return extension.module.instruction_set() if extension.module else None


def set_instruction_set(name: str) -> None:
    """Uses the kernels compiled for `name`, one of `instruction_sets()`, from the next call on.

    Raises:
        ValueError: `name` was not compiled, or this machine cannot run it.

    """
    if extension.module is None or name not in instruction_sets():
        raise ValueError(f"instruction set: expected one of {', '.join(instruction_sets())}, got {name!r}")
    extension.module.set_instruction_set(name)


def serves(dtype: torch.dtype, channels: int) -> bool:
    """Whether tensors on the CPU of this dtype and D are served: whether there are no `not_supported_reasons`."""
    return dtype in _DTYPES and channels <= MAX_CHANNELS and extension.module is not None


def not_supported_reasons(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the CPU kernels from serving a call with this q; nothing if they can."""
    reasons = []
    if extension.unavailable:
        reasons.append(extension.unavailable)
    if q.device.type != "cpu":
        reasons.append(f"needs tensors on the CPU, got {q.device}")
    if q.dtype not in _DTYPES:
        reasons.append(f"needs float32, bfloat16 or float16, got {q.dtype}")
    if q.shape[-1] > MAX_CHANNELS:
        reasons.append(f"needs D to be at most {MAX_CHANNELS}, got {q.shape[-1]}")
    return reasons


if extension.unavailable:
    warnings.warn(
        f"grm_kernels: {extension.unavailable}; tensors on the CPU are served by the slow reference", stacklevel=2
    )
if extension.module and os.environ.get(ENVIRONMENT_VARIABLE):
    try:
        set_instruction_set(os.environ[ENVIRONMENT_VARIABLE])
    except ValueError as error:
        raise ValueError(f"environment variable {ENVIRONMENT_VARIABLE}: {error}") from None
