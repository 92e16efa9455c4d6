"""The operators that torch knows: schemas, shape functions, batching rules, the autocast rule.

Every compiled backend implements the same four operators: ``grm_kernels::<backend>_forward`` and ``<backend>_backward``
with q, k, v of their own, and both with ``_packed`` behind with one qkv. Whatever implements them (csrc/binding.cpp,
grm_kernels/triton) is registered for the device types that it serves; autograd stands outside (autograd.py).
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, is_autocast_enabled
from torch.autograd import forward_ad

#: Backends that are operators. The reference is plain PyTorch and needs none.
BACKENDS = ("cpu", "triton", "cuda")

# By whether they are packed: q, k, v (B, H, N, D), or qkv (B, N, 3, H, D); and their gradients, of the same shapes.
_TOKENS = {False: "Tensor q, Tensor k, Tensor v", True: "Tensor qkv"}
_GRADS = {False: "Tensor grad_q, Tensor grad_k, Tensor grad_v", True: "Tensor grad_qkv"}
_SCHEMAS = {
    # k and v may have fewer heads than q, a divisor of them; their gradients have those of q, to be added up by group.
    # At least one of categories (B, N) uint8 and soft_policy (B, N, 3) float32 is given; with both the categories only
    # say what is padding.
    "forward": "({tokens}, Tensor? categories, Tensor? soft_policy, float scale) -> (Tensor out, Tensor lse)",
    # grad_lse of None stands for zeros. grad_policy is (B, N, 3) float32 with policy_grad, otherwise empty.
    "backward": "(Tensor grad_out, Tensor? grad_lse, {tokens}, Tensor out, Tensor lse, Tensor? categories,"
    " Tensor? soft_policy, float scale, bool policy_grad) -> ({grads}, Tensor grad_policy)",
}


def empty_like_output(q: Tensor) -> Tensor:
    """Uninitialised (B, H, N, D) in q's dtype that lies in memory as (B, N, H, D): merging the heads is a view.

    It is no view itself, so that users may change it in place.
    """
    b, h, n, d = q.shape
    return q.new_empty_strided((b, h, n, d), (n * h * d, d, h * d, 1))


def unpack(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views q, k, v (B, H, N, D) of qkv (B, N, 3, H, D)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def with_adjacent_channels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, copied where their last stride is not 1: an expanded gradient, an input of an exported program."""
    return tuple(t if t.stride(-1) == 1 else t.contiguous() for t in tensors)


def is_forward_mode() -> bool:
    """Whether derivatives are taken forwards, in which any tensor may carry one."""
    return forward_ad._current_level >= 0


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether a derivative of what is computed from these tensors may be asked for."""
    return is_forward_mode() or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


# ---- shapes ----


def _fake_forward(q, k, v, categories, soft_policy, scale):
    return empty_like_output(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_forward_packed(qkv, categories, soft_policy, scale):
    return _fake_forward(*unpack(qkv), categories, soft_policy, scale)


def _fake_grad_policy(out, policy_grad):
    return out.new_empty((out.shape[0], out.shape[2], 3) if policy_grad else (0,), dtype=torch.float32)


def _fake_backward(grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, scale, policy_grad):
    grads = (empty_like_output(q), empty_like_output(q), empty_like_output(q))
    return *grads, _fake_grad_policy(out, policy_grad)


def _fake_backward_packed(grad_out, grad_lse, qkv, out, lse, categories, soft_policy, scale, policy_grad):
    return qkv.new_empty(qkv.shape), _fake_grad_policy(out, policy_grad)


# ---- torch.func.vmap: what is mapped over joins the batch ----


def _map_over_batch(operator: torch._ops.OpOverload, info, in_dims, *arguments):
    """One call with (V B, ...) in place of V calls with (B, ...)."""
    size = info.batch_size
    first, dim = arguments[0], in_dims[0]
    batch = first.shape[0] if dim is None else first.movedim(dim, 0).shape[1]

    def joined(x, dim):
        if not isinstance(x, Tensor):
            return x
        return (x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

    results = operator(*map(joined, arguments, in_dims))
    # A gradient of the policy that was not asked for has no batch.
    mapped = [result.dim() > 1 for result in results]
    results = tuple(
        result.unflatten(0, (size, batch)) if has_batch else result
        for result, has_batch in zip(results, mapped, strict=True)
    )
    return results, tuple(0 if has_batch else None for has_batch in mapped)


# ---- registration ----

_FAKES: dict[str, Callable] = {
    "forward": _fake_forward,
    "forward_packed": _fake_forward_packed,
    "backward": _fake_backward,
    "backward_packed": _fake_backward_packed,
}
LIBRARY = torch.library.Library("grm_kernels", "DEF")


def _register(backend: str, pass_: str, packed: bool) -> torch._ops.OpOverload:
    kind = f"{pass_}_packed" if packed else pass_
    name = f"{backend}_{kind}"
    schema = _SCHEMAS[pass_].format(tokens=_TOKENS[packed], grads=_GRADS[packed])
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"grm_kernels::{name}", _FAKES[kind], lib=LIBRARY)
    operator = getattr(torch.ops.grm_kernels, name).default
    torch.library.register_vmap(operator, functools.partial(_map_over_batch, operator), lib=LIBRARY)
    return operator


_OPERATORS = {
    (backend, pass_, packed): _register(backend, pass_, packed)
    for backend in BACKENDS
    for pass_ in _SCHEMAS
    for packed in _TOKENS
}


def forward(backend: str, packed: bool = False) -> torch._ops.OpOverload:
    """The forward operator of a backend."""
    return _OPERATORS[backend, "forward", packed]


def backward(backend: str, packed: bool = False) -> torch._ops.OpOverload:
    """The backward operator of a backend."""
    return _OPERATORS[backend, "backward", packed]


# ---- autocast ----

#: Device types that autocast knows. (Asked once: torch 2.11 cannot trace the question.)
_AUTOCAST = frozenset(name for name in ("cpu", "cuda", "xpu", "mps", "mtia") if torch.amp.is_autocast_available(name))


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """q, k, v, or qkv, in autocast's dtype where it is on for their device, as for torch's own attention.

    float64 stays, and so does what is no floating-point tensor: it is reported later.
    """
    if _is_autocast(tensors[0]):
        dtype = torch.get_autocast_dtype(tensors[0].device.type)
        return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)
    return tensors


def without_autocast(q: Tensor) -> AbstractContextManager[object]:
    """A block in which operations on tensors like q compute in the dtypes that they are given."""
    return torch.autocast(q.device.type, enabled=False) if _is_autocast(q) else nullcontext()


def _is_autocast(tensor: Tensor) -> bool:
    return tensor.device.type in _AUTOCAST and is_autocast_enabled(tensor.device.type)
