"""The operators that torch knows: schemas, shape functions and the autocast rule.

Every compiled backend implements the same two operators, named ``grm_kernels::<backend>_forward`` and
``grm_kernels::<backend>_backward``. Whatever implements them (csrc/binding.cpp, grm_kernels/triton) is registered for
the device types that it serves; autograd stands outside (autograd.py).
"""

import torch
from torch import Tensor

#: Backends that are operators. The reference is plain PyTorch and needs none.
BACKENDS = ("cpu", "triton", "cuda")

_SCHEMAS = {
    # Either categories (B, N) uint8 or soft_policy (B, N, 3) float32 is given.
    "forward": "(Tensor q, Tensor k, Tensor v, Tensor? categories, Tensor? soft_policy, float scale)"
    " -> (Tensor out, Tensor lse)",
    # grad_policy is (B, N, 3) float32 with policy_grad, otherwise empty.
    "backward": "(Tensor grad_out, Tensor grad_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,"
    " Tensor? categories, Tensor? soft_policy, float scale, bool policy_grad)"
    " -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_policy)",
}


def empty_like_output(q: Tensor) -> Tensor:
    """Uninitialised (B, H, N, D) in q's dtype that lies in memory as (B, N, H, D): merging the heads is a view."""
    b, h, n, d = q.shape
    return q.new_empty(b, n, h, d).transpose(1, 2)


def with_adjacent_channels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, copied where their last stride is not 1: an expanded gradient, an input of an exported program."""
    return tuple(t if t.stride(-1) == 1 else t.contiguous() for t in tensors)


def _fake_forward(q, k, v, categories, soft_policy, scale):
    return empty_like_output(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_backward(grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, scale, policy_grad):
    shape = (q.shape[0], q.shape[2], 3) if policy_grad else (0,)
    grad_policy = q.new_empty(shape, dtype=torch.float32)
    return empty_like_output(q), empty_like_output(q), empty_like_output(q), grad_policy


LIBRARY = torch.library.Library("grm_kernels", "DEF")
for _backend in BACKENDS:
    for _pass, _fake in (("forward", _fake_forward), ("backward", _fake_backward)):
        LIBRARY.define(f"{_backend}_{_pass}{_SCHEMAS[_pass]}", tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"grm_kernels::{_backend}_{_pass}", _fake, lib=LIBRARY)


def forward(backend: str) -> torch._ops.OpOverload:
    """The forward operator of a backend."""
    return getattr(torch.ops.grm_kernels, f"{backend}_forward").default


def backward(backend: str) -> torch._ops.OpOverload:
    """The backward operator of a backend."""
    return getattr(torch.ops.grm_kernels, f"{backend}_backward").default


#: Device types that autocast knows. (Asked once: torch 2.11 cannot trace the question.)
_AUTOCAST = frozenset(name for name in ("cpu", "cuda", "xpu", "mps", "mtia") if torch.amp.is_autocast_available(name))


def autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v in autocast's dtype where it is on for their device, as for torch's own attention; else unchanged.

    float64 stays, and so does what is no floating-point tensor: it is reported later.
    """
    device_type = q.device.type
    if device_type in _AUTOCAST and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in (q, k, v))
    return q, k, v
