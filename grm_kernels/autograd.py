"""The gradient of the operator: an autograd Function over the registered forward and backward operators."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops


class CategoryAttention(torch.autograd.Function):
    """(q, k, v, categories, policy, soft, scale, backend) to (out, lse), arguments checked by `category_attention`."""

    @staticmethod
    def forward(ctx, q, k, v, categories, policy, soft, scale, backend):
        """Runs the backend's forward operator; the policy's value is read only if `soft`."""
        soft_policy = policy.detach().float() if soft else None
        out, lse = ops.forward(backend)(q, k, v, categories, soft_policy, scale)
        ctx.save_for_backward(q, k, v, categories, soft_policy, out, lse)
        ctx.scale = scale
        ctx.backend = backend
        ctx.policy_dtype = None if policy is None else policy.dtype
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor, grad_lse: Tensor):
        """Gradients of q, k, v and of the policy; the backend="reference" form is differentiable twice, this is not."""
        q, k, v, categories, soft_policy, out, lse = ctx.saved_tensors
        policy_grad = ctx.needs_input_grad[4]
        grad_q, grad_k, grad_v, grad_policy = ops.backward(ctx.backend)(
            grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, ctx.scale, policy_grad
        )
        grad_policy = grad_policy.to(ctx.policy_dtype) if policy_grad else None
        return grad_q, grad_k, grad_v, None, grad_policy, None, None, None
