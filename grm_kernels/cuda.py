"""The compiled CUDA kernels (csrc/cuda): what they support, and where they are known to be faster than Triton's."""

import torch
from torch import Tensor

from .device import SHARED_KIB, capability, is_nvidia_gpu, name_of
from .extension import CUDA_ARCHITECTURES

#: (pass, D) to the most tokens, by KiB of shared memory. The whole sequence is resident: keys and values in the forward
#: pass; in the backward pass also P and dS, and, in the registers, the gradients of keys and values.
MAX_TOKENS = {
    99: {("forward", 64): 384, ("forward", 32): 736, ("backward", 64): 0, ("backward", 32): 320},
    163: {("forward", 64): 640, ("forward", 32): 1024, ("backward", 64): 320, ("backward", 32): 320},
    227: {("forward", 64): 864, ("forward", 32): 1024, ("backward", 64): 320, ("backward", 32): 320},
}

#: (compute capability, pass, D, N) for which a record in benchmarks/results shows these kernels to be faster than
#: Triton's at every batch size: there the automatic choice takes them. None has been measured yet.
FASTER: frozenset[tuple[tuple[int, int], str, int, int]] = frozenset()

_DTYPES = (torch.bfloat16, torch.float16)


def served() -> list[str]:
    """What the kernels serve, a line for all compute capabilities with the same shared memory."""
    lines = []
    for kib, row in MAX_TOKENS.items():
        capabilities = name_of(*(capability for capability, shared in SHARED_KIB.items() if shared == kib))
        passes = (f"{pass_} of D={d} to N={most}" for (pass_, d), most in row.items() if most)
        lines.append(f"{capabilities} ({kib} KiB a block): {', '.join(passes)}")
    return lines


def shape_reasons(q: Tensor, device_capability: tuple[int, int], *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the kernels from serving this dtype and shape on a GPU of a compute capability."""
    reasons = []
    if q.dtype not in _DTYPES:
        reasons.append(f"needs bfloat16 or float16, got {q.dtype}")
    if soft:
        reasons.append("needs categories, got a soft policy")
    n, d = q.shape[-2:]
    name = name_of(device_capability)
    shared = SHARED_KIB.get(device_capability)
    if shared is None:
        reasons.append(f"needs one of the compute capabilities {name_of(*SHARED_KIB)}, got {name}")
    if d not in (32, 64):
        reasons.append(f"needs D of 32 or 64, got {d}")
    elif shared is not None:
        for pass_ in ("forward", "backward") if needs_grad else ("forward",):
            most = MAX_TOKENS[shared][pass_, d]
            if n > most:
                reasons.append(f"the {pass_} pass holds at most N={most} tokens of D={d} on {name}, got {n}")
    return reasons


def not_supported_reasons(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the CUDA kernels from serving a call with this q; nothing if they can."""
    reasons = []
    if not CUDA_ARCHITECTURES:
        reasons.append("the CUDA kernels were not compiled (there was no nvcc, or torch is a build without CUDA)")
    if not is_nvidia_gpu(q.device):
        return [*reasons, f"needs tensors on an NVIDIA GPU, got {q.device}"]
    device_capability = capability(q.device)
    if CUDA_ARCHITECTURES and not any(_runs_on(architecture, device_capability) for architecture in CUDA_ARCHITECTURES):
        reasons.append(f"compiled for {', '.join(CUDA_ARCHITECTURES)} only, {q.device} is {name_of(device_capability)}")
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
