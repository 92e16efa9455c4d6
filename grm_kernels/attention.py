"""`category_attention`: the public function. Checks its input, chooses a backend, runs it."""

import os

import torch
from torch import Tensor

from . import dispatch, ops, reference
from .autograd import CategoryAttention
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
        scale: factor of the scores; D^-1/2 by default.
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
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    q, k, v = ops.autocast(q, k, v)
    _check_tokens(q, k, v)
    _check_categories(categories, policy, soft, q)
    try:
        scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    except (TypeError, ValueError):
        raise TypeError(f"scale: expected a number or None, got {scale!r}") from None
    if not (backend is None or isinstance(backend, str)):
        raise TypeError(f"backend: expected a name or None, got {type(backend).__name__}")

    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, policy))
    backend = dispatch.choose(q, backend, needs_grad=needs_grad, soft=soft)
    if backend == "reference":
        out, lse = reference.attention(q, k, v, categories, policy, soft=soft, scale=scale)
    else:
        out, lse = CategoryAttention.apply(q, k, v, categories, policy, soft, scale, backend)
    return (out, lse) if return_lse else out


def _check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions (B, H, N, D), got shape {tuple(tensor.shape)}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {tensor.dtype}")
        if tensor.shape != q.shape:
            raise ValueError(f"{name}: expected the shape of q {tuple(q.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q {q.dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{name}: expected the last stride to be 1, got strides {tensor.stride()}")
    if q.shape[2] < 1 or q.shape[3] < 1:
        raise ValueError(f"q: expected N and D of at least 1, got shape {tuple(q.shape)}")


def _check_categories(categories: Tensor | None, policy: Tensor | None, soft: bool, q: Tensor) -> None:
    b, _, n, _ = q.shape
    if categories is not None:
        _check_vector("categories", categories, (b, n), q)
        if categories.dtype != torch.uint8:
            raise TypeError(f"categories: expected dtype torch.uint8, got {categories.dtype}")
    elif not soft:
        raise TypeError("categories: expected a tensor, got None (it may be None only with soft=True)")
    if policy is not None:
        _check_vector("policy", policy, (b, n, len(Category)), q)
        if policy.dtype not in _DTYPES:
            raise TypeError(f"policy: expected float32, float16, bfloat16 or float64, got {policy.dtype}")
    elif soft:
        raise TypeError("policy: expected a tensor with soft=True, got None")
    if categories is not None and not soft and categories.numel() and _values_are_checked(categories, policy):
        _check_values(categories, policy)


def _check_vector(name: str, tensor: Tensor, shape: tuple[int, ...], q: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} for q of shape {tuple(q.shape)}, got {tuple(tensor.shape)}")
    if tensor.device != q.device:
        raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")


def _values_are_checked(categories: Tensor, policy: Tensor | None) -> bool:
    # While a graph is traced there are no values to look at: fake and functional tensors are subclasses. Nor are there
    # any in what torch.func maps over.
    if torch.compiler.is_compiling() or type(categories) not in (Tensor, torch.nn.Parameter):
        return False
    if any(t is not None and torch._C._functorch.is_functorch_wrapped_tensor(t) for t in (categories, policy)):
        return False
    return categories.device.type == "cpu" or os.environ.get(CHECK_VARIABLE) == "1"


def _check_values(categories: Tensor, policy: Tensor | None) -> None:
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
