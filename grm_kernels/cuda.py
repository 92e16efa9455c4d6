"""The compiled CUDA kernels (csrc/cuda): what they support, and where they are known to be faster than Triton's."""

import torch
from torch import Tensor

from . import cpu
from .triton.config import capability

#: KiB of shared memory that a block may use, by compute capability.
SHARED_KIB = {
    (8, 0): 163,
    (8, 6): 99,
    (8, 7): 163,
    (8, 9): 99,
    (9, 0): 227,
    (10, 0): 227,
    (10, 3): 227,
    (12, 0): 99,
    (12, 1): 99,
}

#: (pass, D) to the most tokens, by KiB of shared memory. The whole sequence is resident: keys and values in the forward
#: pass; in the backward pass also P and dS, and, in the registers, the gradients of keys and values.
MOST_TOKENS = {
    99: {("forward", 64): 384, ("forward", 32): 736, ("backward", 64): 0, ("backward", 32): 320},
    163: {("forward", 64): 640, ("forward", 32): 1024, ("backward", 64): 320, ("backward", 32): 320},
    227: {("forward", 64): 864, ("forward", 32): 1024, ("backward", 64): 320, ("backward", 32): 320},
}

#: (compute capability, pass, D, N) for which a record in benchmarks/results shows these kernels to be faster than
#: Triton's at every batch size: there the automatic choice takes them. None has been measured yet.
FASTER: frozenset[tuple[tuple[int, int], str, int, int]] = frozenset()

_DTYPES = (torch.bfloat16, torch.float16)
#: Compute capabilities that code was compiled for, as "9.0a"; empty without a CUDA compiler or a CUDA build of torch.
ARCHITECTURES: tuple[str, ...] = tuple(getattr(cpu._C, "cuda_architectures", "").split())


def shape_reasons(q: Tensor, device_capability: tuple[int, int], *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the kernels from serving this dtype and shape on a GPU of a compute capability."""
    reasons = []
    if q.dtype not in _DTYPES:
        reasons.append(f"needs bfloat16 or float16, got {q.dtype}")
    if soft:
        reasons.append("needs categories, got a soft policy")
    n, d = q.shape[-2:]
    name = "{}.{}".format(*device_capability)
    shared = SHARED_KIB.get(device_capability)
    if shared is None:
        reasons.append(f"needs one of the compute capabilities {_names(SHARED_KIB)}, got {name}")
    if d not in (32, 64):
        reasons.append(f"needs D of 32 or 64, got {d}")
    elif shared is not None:
        for pass_ in ("forward", "backward") if needs_grad else ("forward",):
            most = MOST_TOKENS[shared][pass_, d]
            if n > most:
                reasons.append(f"the {pass_} pass holds at most N={most} tokens of D={d} on {name}, got {n}")
    return reasons


def not_supported_reasons(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the CUDA kernels from serving a call with this q; nothing if they can."""
    reasons = []
    if not ARCHITECTURES:
        reasons.append("the CUDA kernels were not compiled (there was no nvcc, or torch is a build without CUDA)")
    if q.device.type != "cuda" or not torch.cuda.is_available() or torch.version.hip:
        return [*reasons, f"needs tensors on an NVIDIA GPU, got {q.device}"]
    device_capability = capability(q.device)
    if ARCHITECTURES and not any(_runs_on(architecture, device_capability) for architecture in ARCHITECTURES):
        reasons.append(f"compiled for {', '.join(ARCHITECTURES)} only, {q.device} is {_names([device_capability])}")
    return reasons + shape_reasons(q, device_capability, needs_grad=needs_grad, soft=soft)


def is_faster(q: Tensor, *, needs_grad: bool) -> bool:
    """Whether the automatic choice should take these kernels before Triton's: where `FASTER` has every pass needed."""
    n, d = q.shape[-2:]
    passes = ("forward", "backward") if needs_grad else ("forward",)
    return bool(FASTER) and all((capability(q.device), pass_, d, n) in FASTER for pass_ in passes)


def _runs_on(architecture: str, device_capability: tuple[int, int]) -> bool:
    """Machine code runs on later minor versions of its major one; with a letter only on its own."""
    major, minor = (int(part.rstrip("af")) for part in architecture.split("."))
    own = (major, minor) == device_capability
    return own or (architecture[-1].isdigit() and major == device_capability[0] and minor <= device_capability[1])


def _names(capabilities) -> str:
    return ", ".join("{}.{}".format(*pair) for pair in capabilities)
