"""Eager PyTorch: the definition of category attention, and the two implementations of the paper.

Nothing here is fast and everything here forms the N x N matrix. `attention` is the specification that the kernels are
tested against; `masked_attention` and `separate_attention` are the baselines that they are measured against.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .categories import PADDING, Category, category_order, one_hot
from .constants import SATURATION


def interaction_mask(policy: Tensor) -> Tensor:
    """M = 1 - p s^T - s p^T with M_ii = 1 (the paper's Eq. 7), from a policy (B, N, 3) to (B, N, N) of its dtype.

    A soft policy that was rounded may add up to more than 1: the value of M is cut at 0, its gradient is not.
    """
    p, s = policy[..., Category.T], policy[..., Category.S]
    blocked = p.unsqueeze(-1) * s.unsqueeze(-2) + s.unsqueeze(-1) * p.unsqueeze(-2)
    mask = 1 - blocked.masked_fill(torch.eye(policy.shape[1], dtype=torch.bool, device=policy.device), 0)
    return mask + (mask.clamp_min(0) - mask).detach()


def _finite_part(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` with 0 in place of what is not finite, and where that is."""
    finite = x.isfinite()
    return torch.where(finite, x, 0), ~finite


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    categories: Tensor | None,
    policy: Tensor | None = None,
    *,
    soft: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Category attention as defined: P_ij = M_ij exp(S_ij) / sum_l M_il exp(S_il), out = P v, S = scale q k^T.

    Arguments as in `grm_kernels.category_attention`, unchecked; categories are (B, N) uint8, `PADDING` among them, and
    say with `soft` no more than what is padding. k and v may have fewer heads than q. Differentiable twice. Scores and
    softmax are computed in float32 (float64 for float64 inputs), the product with v in the inputs' dtype. What is not
    finite in a token does not reach those that may not see it, in the forward pass: of the gradients, which are
    autograd's, nothing is said then.

    Returns:
        out: (B, H, N, D) in q's dtype.
        lse: (B, H, N) float32 (float64 for float64 inputs), log sum_l M_il exp(S_il).

    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    counts = None if categories is None else categories != PADDING  # (B, N)
    if counts is not None:
        q, k, v = (x.where(counts[:, None, :, None], 0) for x in (q, k, v))
        policy = None if policy is None else policy.where(counts.unsqueeze(-1), 0)
    if not soft:
        assert categories is not None
        hard = one_hot(categories, dtype)
        # Straight through: the value is the categories', the gradient the policy's. Its value does not count, not even
        # one that is not finite.
        policy = hard if policy is None else hard + (policy - policy.detach()).nan_to_num(0.0).to(dtype)
    assert policy is not None
    mask = interaction_mask(policy.to(dtype)).unsqueeze(1)  # (B, 1, N, N)
    if counts is not None:
        # Padding sees itself here, which is a softmax of 1 and not of nothing; its rows are taken out below.
        both = counts.unsqueeze(-1) & counts.unsqueeze(-2) | torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
        mask = mask.where(both.unsqueeze(1), 0)
    allowed = mask > 0

    # 0 times what is not finite is NaN: such values are left out of products, and NaN is added where they are seen.
    (q, bad_q), (k, bad_k), (v, bad_v) = (_finite_part(x) for x in (q, k, v))
    # Not in 16 bits: a product beyond 65504 is no number in float16.
    scores = (q.to(dtype) @ k.to(dtype).transpose(-1, -2)) * scale
    scores = scores.where(~(bad_q.any(-1).unsqueeze(-1) | bad_k.any(-1).unsqueeze(-2)), math.nan)
    # The result does not depend on this normaliser (it cancels below), so it is a constant to autograd.
    lse = torch.where(allowed, scores + mask.clamp_min(torch.finfo(dtype).tiny).log(), -math.inf).detach().logsumexp(-1)
    exponent = scores - lse.unsqueeze(-1)
    bounded = exponent.nan_to_num(nan=math.log(SATURATION)).clamp(max=math.log(SATURATION))
    exponent = torch.where(allowed, exponent, bounded)
    weights = mask * exponent.exp()
    total = weights.sum(-1, keepdim=True)
    seen = allowed.to(dtype) @ bad_v.to(dtype) > 0
    out = (weights / total).to(v.dtype) @ v + torch.where(seen, math.nan, 0.0).to(v.dtype)
    lse = lse + total.squeeze(-1).log()
    if counts is not None:
        out, lse = out.where(counts[:, None, :, None], 0), lse.where(counts.unsqueeze(1), -math.inf)
    # The memory order of the kernels' output, so that merging the heads is a view; and no view itself.
    return out.transpose(1, 2).contiguous().transpose(1, 2).clone(), lse


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, policy: Tensor, *, scale: float | None = None, epsilon: float = 0.0
) -> Tensor:
    """The paper's masked form: one dense attention whose softmax is weighted by the N x N mask of the policy.

    As published: the row maximum is taken over all keys, blocked ones included; e = exp(S - max) in float32 times M;
    the weights are (e + epsilon / N) / (sum e + epsilon). The published code has epsilon = 1e-6, the paper none.

    Args:
        q, k, v: (B, H, N, D), any float dtype.
        policy: (B, N, 3), one-hot or soft, columns T, S, A. Its gradient flows through the mask.
        scale: factor of the scores, D^-1/2 by default.
        epsilon: see above.

    Returns:
        (B, H, N, D) in q's dtype.

    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = interaction_mask(policy).unsqueeze(1)
    scores = (q @ k.transpose(-1, -2)) * scale
    shifted = (scores - scores.amax(-1, keepdim=True)).to(torch.promote_types(q.dtype, torch.float32))
    weights = shifted.exp() * mask
    weights = (weights + epsilon / q.shape[2]) / (weights.sum(-1, keepdim=True) + epsilon)
    return weights.to(v.dtype) @ v


def separate_attention(q: Tensor, k: Tensor, v: Tensor, categories: Tensor, *, scale: float | None = None) -> Tensor:
    """The paper's separate form: for every image three dense attentions over gathered tokens, one for each category.

    The number of tokens in a category differs between images and has to be known on the host, so images are served one
    after the other and a GPU is synchronised. Gives no gradient of the policy.

    Args:
        q, k, v: (B, H, N, D), any float dtype.
        categories: (B, N) uint8.
        scale: factor of the scores, D^-1/2 by default.

    Returns:
        (B, H, N, D) in q's dtype.

    """
    orders, counts = category_order(categories)
    outputs = []
    for b, (n_t, n_a, n_s) in enumerate(counts.tolist()):
        order = orders[b]
        n = n_t + n_a + n_s
        keys, values = k[b][:, order], v[b][:, order]
        parts = []
        for queries, visible in (
            (slice(0, n_t), slice(0, n_t + n_a)),
            (slice(n_t, n_t + n_a), slice(0, n)),
            (slice(n_t + n_a, n), slice(n_t, n)),
        ):
            rows = q[b][:, order[queries]]
            parts.append(F.scaled_dot_product_attention(rows, keys[:, visible], values[:, visible], scale=scale))
        parts.append(torch.zeros_like(q[b][:, n:]))  # of padding
        outputs.append(torch.cat(parts, dim=1)[:, order.argsort()])
    return torch.stack(outputs) if outputs else torch.empty_like(q)
