"""NaN and infinity stay with the tokens that may see them: blocked pairs are not computed as 0 times a value."""

from dataclasses import replace

import pytest
import torch

from grm_kernels import Category
from tests.grm_kernels.problems import make_problem, solve

TENSORS = ("q", "k", "v", "grad_out")


def planted(n, tensor, value, category, policy=False, dtype=torch.float32):
    """A problem in which every token of a category holds what is not finite in one channel; T, S and A all over it."""
    problem = make_problem(1, 2, n, 16, dtype, policy=policy, seed=n)
    problem.categories[:] = torch.arange(n).mul(7).remainder(3).to(torch.uint8)
    if policy:
        problem.policy.copy_(torch.nn.functional.one_hot(problem.categories.long(), 3))
    spoilt = getattr(problem, tensor).clone()
    spoilt[:, :, problem.categories[0] == category, 5] = value
    return problem, replace(problem, **{tensor: spoilt})


# One block of queries, blocks that straddle two categories, parts of a head.
@pytest.mark.parametrize("n", [9, 30, 100, 300])
@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("policy", [False, True], ids=["no-policy", "policy"])
def test_rows_that_do_not_see_it_are_as_without_it(backend, n, tensor, value, policy):
    """Of S, where it stands in T: out, lse and grad_q; and all gradients, where A does not see it either."""
    if backend.name != "cpu":
        pytest.skip("the CPU kernels and the reference keep it apart; see docs/attention.md")
    clean, spoilt = planted(n, tensor, value, Category.T, policy)
    in_s = clean.categories[0] == Category.S
    keys = ("out", "lse", "grad_q") if tensor in ("k", "v") else ("out", "lse", "grad_q", "grad_k", "grad_v")
    expected, result = solve(clean, backend.name), solve(spoilt, backend.name)
    for name in keys:
        there = expected[name][:, :, in_s]
        bound = 16 * torch.finfo(torch.float32).eps * float(there.detach().abs().max())
        torch.testing.assert_close(result[name][:, :, in_s], there, rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_who_sees_it_does_not_miss_it(backend, dtype):
    """NaN in values of T reaches every row of T and A, in its channel and no other."""
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend} does not run {dtype} here")
    _, spoilt = planted(100, "v", torch.nan, Category.T, dtype=dtype)
    spoilt = replace(spoilt, **{x: getattr(spoilt, x).to(backend.device) for x in (*TENSORS, "grad_lse", "categories")})
    out = solve(spoilt, backend.name)["out"]
    sees = spoilt.categories[0] != Category.S
    assert out[:, :, sees, 5].isnan().all()
    assert out[:, :, sees][..., [*range(5), *range(6, 16)]].isfinite().all()
