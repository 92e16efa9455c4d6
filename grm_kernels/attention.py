"""`category_attention` and its packed form: the public functions. Check their input, choose a backend and run it."""

import torch
from torch import Tensor

from . import arguments, dispatch, ops, reference
from .arguments import DTYPES
from .autograd import AttentionFunction, Transformable


def category_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    categories: Tensor | None,
    policy: Tensor | None = None,
    *,
    valid: Tensor | None = None,
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

    Tokens that are not `valid`, or whose category is `PADDING`, are nobody: no token attends to them, whatever they
    hold, their rows of `out` and of every gradient are 0, their `lse` is -infinity; the kernels skip them.

    Args:
        q, k, v: (B, H, N, D), all of one dtype and device; float32, float16 or bfloat16 (and float64 with the reference
            backend). k and v may have fewer heads, a divisor G of H: head h of q meets their head h // (H / G). Any
            strides whose last is 1: the views of a packed (B, N, 3, H, D) projection are read where they lie. Under
            autocast they are cast to its dtype.
        categories: (B, N) uint8 on the same device, values of `Category` and `PADDING` in any order and number; also
            bool or another integer of such values, and (N,) or (1, N) for all images. (B, H, N) gives every head its
            own: heads become images then, which copies q, k, v where they are views of a packed projection and repeats
            grouped heads. Not read with `soft`; may be None then.
        policy: optional (B, N, 3) of any of the dtypes of q, columns T, S, A: the (straight-through) one-hot whose
            gradient is wanted; its arg-max is `categories`. Its value is not read unless `soft`. The gradient is
            accumulated in float32 and returned in the policy's dtype; float16 overflows at the saturation. With
            categories by head it is (B, H, N, 3).
        valid: optional (B, N), (1, N) or (N,) bool, which tokens count; by default all. Of the others neither category
            nor policy is read.
        soft: take M from the values of the policy, rows of which are probabilities, instead of from the categories;
            where rounding made them add up to more than 1, M is cut at 0.
        scale: factor of the scores, a finite number that has no gradient; D^-1/2 by default.
        backend: "reference", "cpu", "triton" or "cuda"; None takes the fastest that can serve (see `explain`).
        return_lse: also return the log of the denominator.

    Returns:
        out: (B, H, N, D) in q's dtype; ``out.transpose(1, 2).reshape(B, N, H * D)`` is a view, but with categories by
            head.
        lse (with `return_lse`): (B, H, N) float32 (float64 for float64 inputs), log sum_l M_il exp(S_il);
            differentiable.

    Raises:
        TypeError: an argument is not of the type or dtype expected.
        ValueError: a shape, device or value is not as said above, or the backend named cannot serve.

    """
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        arguments.check_tokens(q, k, v)
    q, k, v = ops.autocast(q, k, v)
    shape, dtype, device = q.shape, q.dtype, q.device
    if not (
        len(shape) == 4
        and k.shape == shape == v.shape
        and k.dtype == dtype == v.dtype
        and k.device == device == v.device
        and dtype in DTYPES
        and shape[2] > 0
        and shape[3] > 0
        and (q.stride(3) == k.stride(3) == v.stride(3) == 1 or shape[3] == 1)
    ):
        arguments.check_tokens(q, k, v)
    wanted = q.requires_grad or k.requires_grad or v.requires_grad
    return _attend(q, (q, k, v), wanted, categories, policy, valid, soft, scale, backend, return_lse)


def category_attention_packed(
    qkv: Tensor,
    categories: Tensor | None,
    policy: Tensor | None = None,
    *,
    valid: Tensor | None = None,
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
        categories, policy, valid, soft, scale, backend, return_lse: as for `category_attention`.

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
    arguments.check_layout("qkv", qkv, n=qkv.shape[1])
    like = qkv.select(2, 0).transpose(1, 2)
    return _attend(like, (qkv,), qkv.requires_grad, categories, policy, valid, soft, scale, backend, return_lse)


def _attend(
    q: Tensor,
    tokens: tuple[Tensor, ...],
    wanted: bool,
    categories: Tensor | None,
    policy: Tensor | None,
    valid: Tensor | None,
    soft: bool,
    scale: float | None,
    backend: str | None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """Both forms, once the tokens are checked.

    `tokens` are q, k, v or one qkv, whose gradient may be `wanted`; q is (B, H, N, D).
    """
    b, h, n, d = q.shape
    # What needs no preparation, which is nearly every call of a tracker, takes as little time as it can.
    if (
        valid is None
        and policy is None
        and type(categories) is Tensor
        and categories.dtype == torch.uint8
        and categories.shape == (b, n)
        and categories.device == q.device
        and not soft
    ):
        if arguments.values_are_known(categories):
            arguments.check_values(categories, None)
    elif arguments.are_by_head(categories, policy, soft):
        q, k, v = ops.unpack(*tokens) if len(tokens) == 1 else tokens
        q, k, v, categories, policy, valid = _heads_as_images(q, k, v, categories, policy, valid, soft)
        out, lse = _attend(q, (q, k, v), wanted, categories, policy, valid, soft, scale, backend, True)
        # Not views, so that users may change them in place.
        out, lse = (torch.ops.aten._unsafe_view(x, (b, h, *x.shape[2:])) for x in (out, lse))
        return (out, lse) if return_lse else out
    else:
        categories = arguments.prepared_categories(categories, valid, policy, soft, q)
    scale = d**-0.5 if scale is None else arguments.checked_scale(scale)
    if not (backend is None or isinstance(backend, str)):
        raise TypeError(f"backend: expected a name or None, got {type(backend).__name__}")

    needs_grad = (wanted or (policy is not None and policy.requires_grad)) and torch.is_grad_enabled()
    backend = dispatch.choose(q, backend, needs_grad=needs_grad, soft=soft)
    if backend == "reference":
        q, k, v = ops.unpack(*tokens) if len(tokens) == 1 else tokens
        with ops.without_autocast(q):
            out, lse = reference.attention(q, k, v, categories, policy, soft=soft, scale=scale)
    elif needs_grad or ops.is_forward_mode():  # (a Function refuses what it has no derivative for)
        function = Transformable if torch._C._are_functorch_transforms_active() else AttentionFunction
        out, lse = function.apply(categories, policy, soft, scale, backend, *tokens)
    else:
        soft_policy = policy.float() if soft and policy is not None else None
        out, lse = ops.forward(backend, len(tokens) == 1)(*tokens, categories, soft_policy, scale)
    return (out, lse) if return_lse else out


def _heads_as_images(
    q: Tensor, k: Tensor, v: Tensor, categories: Tensor | None, policy: Tensor | None, valid: Tensor | None, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The arguments with categories, or a policy, of every head, as those of B H images of one head each."""
    b, h, n, d = q.shape
    if soft:
        categories = None
    if categories is not None:
        arguments.check_tensor("categories", categories, (b, h, n), q)
        categories = categories.reshape(b * h, n)
    if policy is not None:
        arguments.check_tensor("policy", policy, (b, h, n, 3), q)
        policy = policy.reshape(b * h, n, 3)
    if valid is not None:
        arguments.check_vector("valid", valid, (b, n), q)
        valid = valid.expand(b, n).repeat_interleave(h, 0)
    tokens = [x if x.shape[1] == h else x.repeat_interleave(h // x.shape[1], 1) for x in (q, k, v)]
    q, k, v = (x.reshape(b * h, 1, n, d) for x in tokens)
    return q, k, v, categories, policy, valid
