"""`category_attention` and its packed form: the public functions. Check their input, choose a backend and run it."""

import math
import numbers
import os

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from . import dispatch, extension, ops, reference
from .autograd import CategoryAttention, Transformable
from .categories import Category

#: Environment variable; set to 1, the values of categories and policy are checked on a GPU too, at the price of a
#: synchronisation. On the CPU they always are.
CHECK_VARIABLE = "GRM_KERNELS_CHECK"

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def category_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    categories: Tensor | None,
    policy: Tensor | None = None,
    *,
    soft: bool = False,
    scale: float | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention among tokens of three categories, in which T and S tokens do not see each other.

    With p = policy[..., 0] (1 where a token is T) and s = policy[..., 1] (1 where it is S), GRM's Eq. 7 is

        M = 1 - p s^T - s p^T with M_ii = 1,   S = scale * q k^T
        P_ij = M_ij exp(S_ij) / sum_l M_il exp(S_il),   out = P v

    The mask is never formed and blocked pairs are skipped. The gradient of the policy is that of this equation (up to a
    constant per token, which any softmax upstream cancels), with exp(S_ij - lse_i) of blocked pairs saturated at 1e6:

        dM_ij = sum_heads exp(S_ij - lse_i) (dout_i . v_j - dout_i . out_i)   for every pair i != j
        dp_i = - sum_j (dM_ij + dM_ji) s_j,   ds_i = - sum_j (dM_ij + dM_ji) p_j

    Args:
        q, k, v: (B, H, N, D), all of one shape, dtype and device; float32, float16 or bfloat16 (and float64 with the
            reference backend). Any strides whose last is 1: the views of a packed (B, N, 3, H, D) projection are read
            where they lie. Under autocast they are cast to its dtype.
        categories: (B, N) uint8 on the same device, values of `Category` in any order and number. Not read with
            `soft`; may be None then.
        policy: optional (B, N, 3) of any of these dtypes, columns T, S, A: the (straight-through) one-hot whose
            gradient is wanted; its arg-max is `categories`. Its value is not read unless `soft`. The gradient is
            accumulated in float32 and returned in the policy's dtype; float16 overflows at the saturation.
        soft: take M from the values of the policy, rows of which are probabilities, instead of from the categories;
            where rounding made them add up to more than 1, M is cut at 0.
        scale: factor of the scores, a finite number that has no gradient; D^-1/2 by default.
        backend: "reference", "cpu", "triton" or "cuda"; None takes the fastest that can serve (see `explain`).
        return_lse: also return the log of the denominator.

    Returns:
        out: (B, H, N, D) in q's dtype; ``out.transpose(1, 2).reshape(B, N, H * D)`` is a view.
        lse (with `return_lse`): (B, H, N) float32 (float64 for float64 inputs), log sum_l M_il exp(S_il);
            differentiable.

    Raises:
        TypeError: an argument is not of the type or dtype expected.
        ValueError: a shape, device or value is not as said above, or the backend named cannot serve.

    """
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        _refuse_tokens(q, k, v)
    q, k, v = ops.autocast(q, k, v)
    shape, dtype, device = q.shape, q.dtype, q.device
    if not (
        len(shape) == 4
        and k.shape == shape == v.shape
        and k.dtype == dtype == v.dtype
        and k.device == device == v.device
        and dtype in _DTYPES
        and shape[2] > 0
        and (q.stride(3) == k.stride(3) == v.stride(3) == 1 or shape[3] == 1)
    ):
        _refuse_tokens(q, k, v)
    wanted = q.requires_grad or k.requires_grad or v.requires_grad
    return _attend(q, (q, k, v), wanted, categories, policy, soft, scale, backend, return_lse)


def category_attention_packed(
    qkv: Tensor,
    categories: Tensor | None,
    policy: Tensor | None = None,
    *,
    soft: bool = False,
    scale: float | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`category_attention` of the q, k, v that lie in one tensor, with one gradient for them.

    The same as ``category_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), ...)``, whose three gradients torch would
    copy together afterwards: the backends write one.

    Args:
        qkv: (B, N, 3, H, D), what a linear layer of 3 H D channels gives, seen so; any strides whose last is 1. Its
            gradient is of this shape, without gaps.
        categories, policy, soft, scale, backend, return_lse: as for `category_attention`.

    Returns:
        As `category_attention`.

    Raises:
        TypeError, ValueError: as `category_attention`.

    """
    if not isinstance(qkv, Tensor):
        raise TypeError(f"qkv: expected a tensor, got {type(qkv).__name__}")
    (qkv,) = ops.autocast(qkv)
    if qkv.dim() != 5 or qkv.shape[2] != 3:
        raise ValueError(f"qkv: expected 5 dimensions (B, N, 3, H, D), got shape {tuple(qkv.shape)}")
    _refuse_layout("qkv", qkv, n=qkv.shape[1])
    like = qkv.select(2, 0).transpose(1, 2)
    return _attend(like, (qkv,), qkv.requires_grad, categories, policy, soft, scale, backend, return_lse)


def _attend(
    q: Tensor,
    tokens: tuple[Tensor, ...],
    wanted: bool,
    categories: Tensor | None,
    policy: Tensor | None,
    soft: bool,
    scale: float | None,
    backend: str | None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """Both forms, once the tokens are checked.

    `tokens` are q, k, v or one qkv, whose gradient may be `wanted`; q is (B, H, N, D).
    """
    _check_categories(categories, policy, soft, q)
    scale = q.shape[-1] ** -0.5 if scale is None else _checked_scale(scale)
    if not (backend is None or isinstance(backend, str)):
        raise TypeError(f"backend: expected a name or None, got {type(backend).__name__}")

    needs_grad = (wanted or (policy is not None and policy.requires_grad)) and torch.is_grad_enabled()
    backend = dispatch.choose(q, backend, needs_grad=needs_grad, soft=soft)
    if backend == "reference":
        q, k, v = ops.unpack(*tokens) if len(tokens) == 1 else tokens
        out, lse = reference.attention(q, k, v, categories, policy, soft=soft, scale=scale)
    elif needs_grad:
        function = Transformable if torch._C._are_functorch_transforms_active() else CategoryAttention
        out, lse = function.apply(categories, policy, soft, scale, backend, *tokens)
    else:
        soft_policy = policy.float() if soft and policy is not None else None
        out, lse = ops.forward(backend, len(tokens) == 1)(*tokens, categories, soft_policy, scale)
    return (out, lse) if return_lse else out


def _checked_scale(scale: float) -> float:
    """A finite number as a float; a tensor would lose its gradient here."""
    if isinstance(scale, torch.SymFloat):
        return scale
    if not isinstance(scale, numbers.Real):
        raise TypeError(f"scale: expected a finite number or None, got {type(scale).__name__} {scale!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scale: expected a finite number or None, got {scale!r}")
    return float(scale)


def _refuse_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises what is wrong with q, k, v."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions (B, H, N, D), got shape {tuple(tensor.shape)}")
        _refuse_layout(name, tensor, n=tensor.shape[2])
        if tensor.shape != q.shape:
            raise ValueError(f"{name}: expected the shape of q {tuple(q.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q {q.dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")


def _refuse_layout(name: str, tensor: Tensor, n: int) -> None:
    """Raises what is wrong with the dtype, the sizes or the strides of a tensor of N tokens, if anything is."""
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {tensor.dtype}")
    if n < 1 or tensor.shape[-1] < 1:
        raise ValueError(f"{name}: expected N and D of at least 1, got shape {tuple(tensor.shape)}")
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name}: expected the last stride to be 1, got strides {tensor.stride()}")


def _check_categories(categories: Tensor | None, policy: Tensor | None, soft: bool, q: Tensor) -> None:
    b, _, n, _ = q.shape
    if categories is not None:
        if not (
            isinstance(categories, Tensor)
            and categories.dtype == torch.uint8
            and categories.shape == (b, n)
            and categories.device == q.device
        ):
            _refuse_vector("categories", categories, (b, n), q)
            raise TypeError(f"categories: expected dtype torch.uint8, got {categories.dtype}")
    elif not soft:
        raise TypeError("categories: expected a tensor, got None (it may be None only with soft=True)")
    if policy is not None:
        _refuse_vector("policy", policy, (b, n, len(Category)), q)
        if policy.dtype not in _DTYPES:
            raise TypeError(f"policy: expected float32, float16, bfloat16 or float64, got {policy.dtype}")
    elif soft:
        raise TypeError("policy: expected a tensor with soft=True, got None")
    if categories is not None and not soft and _values_are_checked(categories, policy):
        _check_values(categories, policy)


def _refuse_vector(name: str, tensor: Tensor, shape: tuple[int, ...], q: Tensor) -> None:
    """Raises what is wrong with the type, shape or device of a tensor of one row for every token, if anything is."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} for q of shape {tuple(q.shape)}, got {tuple(tensor.shape)}")
    if tensor.device != q.device:
        raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")


def _values_are_checked(categories: Tensor, policy: Tensor | None) -> bool:
    """Whether values can and should be looked at.

    While a graph is traced there are none: fake and functional tensors are subclasses, and make_fx follows real ones.
    Nor are there any in what torch.func maps over.
    """
    if torch.compiler.is_compiling() or type(categories) not in (Tensor, torch.nn.Parameter):
        return False
    if torch._C._are_functorch_transforms_active() or (torch._C._len_torch_dispatch_stack() and get_proxy_mode()):
        return False
    on_host = categories.device.type == "cpu" or os.environ.get(CHECK_VARIABLE) == "1"
    return on_host and categories.numel() > 0


def _check_values(categories: Tensor, policy: Tensor | None) -> None:
    if extension.module and categories.is_cpu and categories.is_contiguous():
        largest = extension.module.largest_category(categories.data_ptr(), categories.numel())
    else:
        largest = int(categories.max())
    if largest > Category.A:
        raise ValueError(f"categories: expected values 0 (T), 1 (S) and 2 (A), got {largest}")
    if policy is not None:
        disagree = policy.detach().argmax(-1) != categories
        if disagree.any():
            b, i = disagree.nonzero()[0].tolist()
            raise ValueError(
                f"policy: expected its arg-max to be the category of every token, but at [{b}, {i}] it is "
                f"{policy[b, i].tolist()} where categories has {int(categories[b, i])}"
            )
