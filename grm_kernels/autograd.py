"""The gradient of the operator: autograd Functions over the registered forward and backward operators.

Tokens are q, k, v, or one qkv: see ops.py.
"""

import torch
from torch import Tensor

from . import ops


def _forward(categories, policy, soft, scale, backend, *tokens) -> tuple[Tensor, Tensor]:
    soft_policy = policy.detach().float() if soft else None
    return ops.forward(backend, len(tokens) == 1)(*tokens, categories, soft_policy, scale)


def _save(ctx, inputs, output) -> None:
    categories, policy, soft, scale, backend, *tokens = inputs
    ctx.save_for_backward(*tokens, *output, categories, policy.detach().float() if soft else None)
    ctx.scale = scale
    ctx.backend = backend
    ctx.policy_dtype = None if policy is None else policy.dtype


def _sum_of_groups(grad: Tensor, heads: int) -> Tensor:
    """(B, H, N, D) of every head of q to (B, heads, N, D): heads of q that share one of k and v are neighbours."""
    return grad.unflatten(1, (heads, -1)).sum(2)


class AttentionFunction(torch.autograd.Function):
    """(categories, policy, soft, scale, backend, *tokens) to (out, lse), checked by `category_attention`."""

    @staticmethod
    def forward(ctx, categories, policy, soft, scale, backend, *tokens):
        """Runs the backend's forward operator; the policy's value is read only if `soft`."""
        soft_policy = policy.detach().float() if soft else None
        output = ops.forward(backend, len(tokens) == 1)(*tokens, categories, soft_policy, scale)
        ctx.save_for_backward(*tokens, *output, categories, soft_policy)
        ctx.scale = scale
        ctx.backend = backend
        ctx.policy_dtype = None if policy is None else policy.dtype
        ctx.set_materialize_grads(False)  # nobody asks for the gradient of most lse
        return output

    @staticmethod
    def backward(ctx, grad_out: Tensor | None, grad_lse: Tensor | None):
        """Gradients of the policy and of the tokens, which cannot be differentiated again."""
        *tokens, out, lse, categories, soft_policy = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        policy_grad = ctx.needs_input_grad[1]
        arguments = (grad_out, grad_lse, *tokens, out, lse, categories, soft_policy, ctx.scale, policy_grad)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            *grads, grad_policy = Gradient.apply(ctx.backend, *arguments)
        else:
            *grads, grad_policy = ops.backward(ctx.backend, len(tokens) == 1)(*arguments)
        if len(tokens) == 3 and tokens[1].shape != tokens[0].shape:
            # (Not changed in place: to the compiler of torch 2.11 they are a tuple.)
            grads = [grads[0], *[_sum_of_groups(grad, tokens[1].shape[1]) for grad in grads[1:]]]
        grad_policy = grad_policy.to(ctx.policy_dtype) if policy_grad else None
        return None, grad_policy, None, None, None, *grads


class Transformable(torch.autograd.Function):
    """`AttentionFunction` in the form that torch.func asks for, which takes longer to call."""

    generate_vmap_rule = True
    forward = staticmethod(_forward)
    setup_context = staticmethod(_save)
    backward = AttentionFunction.backward


class Gradient(torch.autograd.Function):
    """The backward operator where a graph of the gradient is made: it may stand there, but not be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend, *arguments):
        """(backend, arguments of the backward operator) to its results."""
        return ops.backward(backend, len(arguments) == 9)(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keeps the backend's name."""
        ctx.backend = inputs[0]

    @staticmethod
    def backward(ctx, *grads):
        """Refuses: `once_differentiable` would let what reaches q, k, v alone pass without their part."""
        raise RuntimeError(
            f"category_attention: the gradient of backend {ctx.backend!r} was to be differentiated once more, but that "
            'of backend="reference" alone can be'
        )
