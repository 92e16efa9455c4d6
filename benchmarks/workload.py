"""What is measured: workloads, and the implementations that are compared on them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tables import BACKWARD, FORWARD, PASSES, POLICY
from grm_kernels import Category, category_attention, masked_attention, separate_attention
from grm_kernels.categories import one_hot

#: Of a tracker; a sequence of less than five times as many has a fifth of its tokens in the template.
TEMPLATE_TOKENS = 64


@dataclass(frozen=True)
class Workload:
    """One cell of the comparison. Sizes of the tracker: 64 template tokens, then search tokens; 12 heads of 64."""

    batch: int
    tokens: int = 320
    #: Share of the search tokens that are S; the others are A.
    share_s: float = 0.5
    dtype: torch.dtype = torch.float32
    run: str = FORWARD
    heads: int = 12
    channels: int = 64

    @property
    def dense_operations(self) -> int:
        """Floating-point operations of dense attention: two products forward, seven with the backward pass."""
        products = 2 if self.run == FORWARD else 7
        return products * 2 * self.batch * self.heads * self.tokens**2 * self.channels

    @property
    def least_bytes(self) -> int:
        """Bytes of the tensors, each once: q, k, v, out; with the backward pass these, dout, dq, dk and dv besides."""
        tensors = 4 if self.run == FORWARD else 12
        return tensors * self.batch * self.heads * self.tokens * self.channels * self.dtype.itemsize


@dataclass(frozen=True)
class Inputs:
    """Tensors of a workload: q, k, v are views of one packed projection, as a tracker has them."""

    q: Tensor
    k: Tensor
    v: Tensor
    categories: Tensor
    policy: Tensor
    grad_out: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v."""
        return self.q, self.k, self.v

    def images(self, indices: list[int], dtype: torch.dtype) -> "Inputs":
        """Some images of the batch, in another dtype."""
        tensors = (self.q, self.k, self.v, self.policy, self.grad_out)
        q, k, v, policy, grad_out = (t[indices].detach().to(dtype).requires_grad_(t.requires_grad) for t in tensors)
        return Inputs(q, k, v, self.categories[indices], policy, grad_out)


def make_inputs(workload: Workload, device: str = "cpu", seed: int = 0) -> Inputs:
    """Standard normal tensors; the S tokens of every image are drawn anew. Tensors need gradients as the pass does."""
    torch.manual_seed(seed)
    w = workload
    packed = torch.randn(w.batch, w.tokens, 3, w.heads, w.channels, device=device).to(w.dtype)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    template = min(TEMPLATE_TOKENS, w.tokens // 5)
    search = w.tokens - template
    categories = torch.full((w.batch, w.tokens), Category.A, dtype=torch.uint8)
    categories[:, :template] = Category.T
    for image in categories:
        image[template + torch.randperm(search)[: round(search * w.share_s)]] = Category.S
    categories = categories.to(device)
    policy = one_hot(categories)
    grad_out = torch.randn(w.batch, w.heads, w.tokens, w.channels, device=device).to(w.dtype)
    if w.run != FORWARD:
        q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    return Inputs(q, k, v, categories, policy.requires_grad_(w.run == POLICY), grad_out)


def allowed_pairs(categories: Tensor) -> Tensor:
    """(B, 1, N, N) bool mask of the pairs that are not T-S."""
    template, search = categories == Category.T, categories == Category.S
    blocked = template.unsqueeze(-1) & search.unsqueeze(-2)
    return ~(blocked | blocked.transpose(-1, -2)).unsqueeze(1)


def ours(x: Inputs, backend: str | None = None) -> Tensor:
    """grm_kernels.category_attention; the policy is only passed when its gradient is wanted."""
    return category_attention(*x.leaves, x.categories, x.policy if x.policy.requires_grad else None, backend=backend)


def masked(x: Inputs) -> Tensor:
    """The paper's masked form, mask built from the policy."""
    return masked_attention(*x.leaves, x.policy)


def separate(x: Inputs) -> Tensor:
    """The paper's separate form, three attentions over gathered tokens."""
    return separate_attention(*x.leaves, x.categories)


def sdpa_masked(x: Inputs) -> Tensor:
    """torch's attention with a boolean mask built from the categories."""
    return F.scaled_dot_product_attention(*x.leaves, attn_mask=allowed_pairs(x.categories))


def sdpa_dense(x: Inputs) -> Tensor:
    """torch's attention without a mask: more pairs, another result."""
    return F.scaled_dot_product_attention(*x.leaves)


@cache
def _compiled_flex_attention() -> tuple[Callable, Callable]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # Every shape is compiled for itself, and none is run without.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(create_block_mask, dynamic=False), torch.compile(flex_attention, dynamic=False)


def block_mask(x: Inputs, create_block_mask: Callable) -> object:
    """FlexAttention's mask of the pairs that are not T-S."""
    # Categories as two boolean vectors: comparisons of uint8 inside the mask do not compile on the CPU (torch 2.13).
    template, search = x.categories == Category.T, x.categories == Category.S

    def mask(b, h, i, j):
        return ~((template[b, i] & search[b, j]) | (search[b, i] & template[b, j]))

    b, n = x.categories.shape
    return create_block_mask(mask, b, None, n, n, device=x.q.device)


def flex(x: Inputs) -> Tensor:
    """FlexAttention, its block mask built in the call: the categories are known only then. Both are compiled."""
    create_block_mask, flex_attention = _compiled_flex_attention()
    return flex_attention(*x.leaves, block_mask=block_mask(x, create_block_mask))


@dataclass(frozen=True)
class Implementation:
    """A way to compute the attention, and what it can do."""

    name: str
    call: Callable[[Inputs], Tensor]
    #: Passes that it has; the dense form stands in the policy's column without giving that gradient.
    runs: tuple[str, ...] = PASSES
    #: Whether it computes category attention; the dense form does not, so its result is not comparable.
    exact: bool = True
    #: Whether a CUDA graph can hold it: it asks nothing of the host.
    capturable: bool = True
    #: The backend of the operator that it is, if it is one.
    backend: str | None = None


#: The paper's two, and torch's nearest, on any device.
BASELINES = (
    Implementation("masked (paper)", masked),
    Implementation("separate (paper)", separate, (FORWARD, BACKWARD), capturable=False),
    Implementation("SDPA, boolean mask", sdpa_masked, (FORWARD, BACKWARD)),
)

#: What is compared on a CPU.
IMPLEMENTATIONS = (
    Implementation("ours", ours),
    *BASELINES,
    Implementation("SDPA, dense", sdpa_dense, PASSES, exact=False),
    # Its backward pass does not exist on a CPU.
    Implementation("FlexAttention + mask", flex, (FORWARD,)),
)


def step(implementation: Implementation, inputs: Inputs) -> tuple[Tensor, ...]:
    """Output and, if the inputs ask for them, the gradients that the implementation gives."""
    out = implementation.call(inputs)
    if not inputs.q.requires_grad:
        return (out,)
    leaves = [*inputs.leaves, *([inputs.policy] if inputs.policy.requires_grad and implementation.exact else [])]
    return (out, *torch.autograd.grad(out, leaves, inputs.grad_out))
