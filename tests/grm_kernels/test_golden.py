"""Golden values of the published implementation, where somebody has them: a folder named by GRM_GOLDEN.

`attention.npz` in it holds float64 arrays q, k, v (B, H, N, D), categories (B, N), grad_out, and what the published
code gives: out, grad_q, grad_k, grad_v and grad_policy (B, N, 3). It takes its exponential in float32: agree to 1e-5.
"""

import os
from pathlib import Path

import pytest
import torch

from grm_kernels import category_attention
from grm_kernels.categories import one_hot

FOLDER = os.environ.get("GRM_GOLDEN")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="GRM_GOLDEN names no folder of golden values")


def agree(result, expected):
    """To 1e-5 of the largest value."""
    assert (result.cpu().double() - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["reference", "kernels"])
def test_attention(name, backend):
    import numpy

    golden = {key: torch.from_numpy(value) for key, value in numpy.load(Path(FOLDER) / "attention.npz").items()}
    dtype, backend_name = (torch.float64, "reference") if name == "reference" else (torch.float32, backend.name)
    categories = golden["categories"].to(backend.device)
    leaves = [golden[x].to(backend.device, dtype).requires_grad_() for x in ("q", "k", "v")]
    policy = one_hot(categories, dtype).requires_grad_()
    out = category_attention(*leaves, categories, policy, backend=backend_name)
    grads = torch.autograd.grad(out, [*leaves, policy], golden["grad_out"].to(backend.device, dtype))
    agree(out, golden["out"])
    for x, grad in zip(("q", "k", "v"), grads, strict=False):
        agree(grad, golden[f"grad_{x}"])
    # Defined up to a constant per token.
    agree(grads[3] - grads[3][..., 2:], golden["grad_policy"] - golden["grad_policy"][..., 2:])
