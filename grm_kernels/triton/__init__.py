"""The Triton kernels: what they support, and their registration. Triton itself is imported with the first call."""

import importlib.util
import os

import torch
from torch import Tensor

from .. import device, ops

#: Least compute capability that the kernels are written for.
MIN_CAPABILITY = (8, 0)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALLED = importlib.util.find_spec("triton") is not None


def not_supported_reasons(q: Tensor, *, needs_grad: bool, soft: bool = False) -> list[str]:
    """What keeps the Triton kernels from serving a call with this q; nothing if they can."""
    reasons = []
    if not _INSTALLED:
        reasons.append("Triton is not installed")
    if q.device.type == "cuda":
        if not device.is_nvidia_gpu(q.device):
            reasons.append("needs an NVIDIA GPU, there is none")
        elif device.capability(q.device) < MIN_CAPABILITY:
            has = device.name_of(device.capability(q.device))
            reasons.append(f"needs compute capability 8.0 or later, {q.device} has {has}")
    elif q.device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        reasons.append(
            f"needs tensors on an NVIDIA GPU, got {q.device} (on the CPU, with TRITON_INTERPRET=1 in the environment, "
            "Triton's interpreter serves: slow, for tests)"
        )
    if q.dtype not in _DTYPES:
        reasons.append(f"needs float32, bfloat16 or float16, got {q.dtype}")
    d = q.shape[-1]
    if d % 16 or not 16 <= d <= 128:
        reasons.append(f"needs D to be a multiple of 16 from 16 to 128, got {d}")
    return reasons


def serves_inference(backend: str | None, *tensors: Tensor) -> bool:
    """Whether an operator that has no gradient is to be, and can be, served by Triton.

    Args:
        backend: "triton" asks for it, "reference" for PyTorch; anything else for the first on a GPU and for the second
            elsewhere.
        tensors: that it reads, all on one device; the first, a weight, has the dtype that counts.

    """
    first = tensors[0]
    if not (backend == "triton" or (first.is_cuda and backend != "reference")):
        return False
    if ops.needs_gradient(*tensors):
        return False
    # What is asked of attention's tensors but for their sizes.
    return not not_supported_reasons(first.flatten()[:1].expand(1, 1, 1, 16), needs_grad=False)


def _forward(*args):
    from . import forward

    return forward.forward(*args)


def _forward_packed(qkv, *args):
    return _forward(*ops.unpack(qkv), *args)


def _backward(grad_out, grad_lse, q, *args):
    from . import backward

    grads = [ops.empty_like_output(q) for _ in range(3)]
    return *grads, backward.backward(grads, grad_out, grad_lse, q, *args)


def _backward_packed(grad_out, grad_lse, qkv, *args):
    from . import backward

    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    return grad_qkv, backward.backward(ops.unpack(grad_qkv), grad_out, grad_lse, *ops.unpack(qkv), *args)


for _key in ("CUDA", "CPU"):
    ops.LIBRARY.impl("triton_forward", _forward, _key)
    ops.LIBRARY.impl("triton_forward_packed", _forward_packed, _key)
    ops.LIBRARY.impl("triton_backward", _backward, _key)
    ops.LIBRARY.impl("triton_backward_packed", _backward_packed, _key)
