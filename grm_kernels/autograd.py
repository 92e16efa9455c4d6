"""The gradient of the operator: an autograd Function over the registered forward and backward operators."""

import torch
from torch import Tensor

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
    def backward(ctx, grad_out: Tensor, grad_lse: Tensor):
        """Gradients of q, k, v and of the policy, which cannot be differentiated again."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # `once_differentiable` would let a second derivative pass that reaches q, k, v alone, without their part.
            raise RuntimeError(
                f"category_attention: the gradient of backend {ctx.backend!r} was asked for with create_graph=True, "
                'but it is not differentiable; that of backend="reference" is'
            )
        q, k, v, categories, soft_policy, out, lse = ctx.saved_tensors
        policy_grad = ctx.needs_input_grad[4]
        grad_q, grad_k, grad_v, grad_policy = ops.backward(ctx.backend)(
            grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, ctx.scale, policy_grad
        )
        grad_policy = grad_policy.to(ctx.policy_dtype) if policy_grad else None
        return grad_q, grad_k, grad_v, None, grad_policy, None, None, None
