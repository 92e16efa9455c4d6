"""The reference against the equations written out, finite differences, and the paper's implementations against it."""

from dataclasses import replace

import pytest
import torch

from grm_kernels import Category, category_attention, category_order, masked_attention, reference, separate_attention
from grm_kernels.categories import one_hot
from tests.grm_kernels.problems import SHARES, make_problem, solve


def attention_by_loops(q, k, v, categories):
    """The definition for one head, token by token: who attends to whom, from the table of categories."""
    attends = {Category.T: (Category.T, Category.A), Category.S: (Category.S, Category.A), Category.A: tuple(Category)}
    out = torch.empty_like(q)
    for i in range(len(q)):
        visible = [j for j in range(len(q)) if int(categories[j]) in attends[Category(int(categories[i]))]]
        out[i] = (k[visible] @ q[i] * q.shape[-1] ** -0.5).softmax(0) @ v[visible]
    return out


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_definition(shares):
    problem = make_problem(1, 2, 23, 8, torch.float64, shares=shares)
    out, _ = reference.attention(problem.q, problem.k, problem.v, problem.categories)
    for h in range(2):
        expected = attention_by_loops(problem.q[0, h], problem.k[0, h], problem.v[0, h], problem.categories[0])
        torch.testing.assert_close(out[0, h], expected)


def test_policy_gradient_by_its_equation():
    """dM_ij = sum_heads E_ij (dout_i . v_j - delta_i), dp = -(dM + dM^T) s, ds = -(dM + dM^T) p, in loops."""
    b, h, n = 2, 3, 11
    problem = make_problem(b, h, n, 8, torch.float64).to(torch.float64)
    result = solve(problem, "reference")
    expected = torch.zeros(b, n, 3, dtype=torch.float64)
    policy = one_hot(problem.categories, torch.float64)
    for image in range(b):
        dm = torch.zeros(n, n, dtype=torch.float64)
        for head in range(h):
            q, k, v = (x[image, head] for x in (problem.q, problem.k, problem.v))
            grad_out, out = problem.grad_out[image, head], result["out"][image, head]
            for i in range(n):
                delta = grad_out[i] @ out[i] - problem.grad_lse[image, head, i]
                for j in range(n):
                    if i != j:
                        e = (q[i] @ k[j] * 8**-0.5 - result["lse"][image, head, i]).exp().clamp(max=1e6)
                        dm[i, j] += e * (grad_out[i] @ v[j] - delta)
        expected[image, :, 0] = -(dm + dm.T) @ policy[image, :, 1]
        expected[image, :, 1] = -(dm + dm.T) @ policy[image, :, 0]
    torch.testing.assert_close(result["grad_policy"], expected)


def soft_and_hard():
    """Small float64 problems: with a soft policy, and with categories (whose policy finite differences cannot see)."""
    hard = make_problem(1, 2, 5, 8, torch.float64, policy=False)
    soft = make_problem(1, 2, 5, 8, torch.float64, soft=True)
    return [pytest.param(hard, id="hard"), pytest.param(replace(soft, policy=soft.policy.double()), id="soft")]


@pytest.mark.parametrize("problem", soft_and_hard())
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_by_finite_differences(problem, check):
    inputs = [problem.q, problem.k, problem.v, *([problem.policy] if problem.soft else [])]
    inputs = [x.clone().requires_grad_() for x in inputs]

    def attention(q, k, v, policy=None):
        return reference.attention(q, k, v, problem.categories, policy, soft=problem.soft)

    assert check(attention, inputs)


def test_hard_policy_gradient_is_the_soft_one_at_the_one_hot():
    problem = make_problem(2, 2, 17, 8, torch.float64).to(torch.float64)
    hard, soft = solve(problem, "reference"), solve(replace(problem, soft=True), "reference")
    for name, expected in hard.items():
        torch.testing.assert_close(soft[name], expected, msg=name)


def test_value_of_a_hard_policy_is_not_read():
    problem = make_problem(1, 1, 9, 8, torch.float64)
    out, _ = reference.attention(problem.q, problem.k, problem.v, problem.categories, problem.policy * 0.7)
    expected, _ = reference.attention(problem.q, problem.k, problem.v, problem.categories)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_baselines_agree(shares):
    """Values of both, and every gradient of the masked one; the policy's up to a constant per token."""
    problem = make_problem(2, 2, 30, 8, torch.float64, shares=shares).to(torch.float64)
    exact = solve(problem, "reference")
    leaves = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v, problem.policy)]
    out = masked_attention(*leaves)
    torch.testing.assert_close(out, exact["out"])
    torch.testing.assert_close(separate_attention(*leaves[:3], problem.categories), exact["out"])

    problem = replace(problem, grad_lse=torch.zeros_like(problem.grad_lse))
    exact = solve(problem, "reference")
    grads = torch.autograd.grad(out, leaves, problem.grad_out)
    for name, grad in zip(("q", "k", "v"), grads[:3], strict=True):
        torch.testing.assert_close(grad, exact[f"grad_{name}"])
    relative = [g - g[..., 2:] for g in (grads[3], exact["grad_policy"])]
    torch.testing.assert_close(*relative)


def test_epsilon_of_the_published_mask_is_small_and_optional():
    problem = make_problem(1, 1, 12, 8, torch.float64).to(torch.float64)
    exact = masked_attention(problem.q, problem.k, problem.v, problem.policy)
    published = masked_attention(problem.q, problem.k, problem.v, problem.policy, epsilon=1e-6)
    assert 0 < (published - exact).abs().max() < 1e-4


def test_order_is_stable_and_by_category():
    categories = torch.tensor([[2, 1, 0, 2, 0, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.uint8)
    order, counts = category_order(categories)
    assert order.tolist() == [[2, 4, 0, 3, 1, 5], [0, 1, 2, 3, 4, 5]]
    assert counts.tolist() == [[2, 2, 2], [0, 0, 6]]


def test_order_counts_bad_values_as_a():
    categories = torch.tensor([[7, 0]], dtype=torch.uint8)
    order, counts = category_order(categories)
    assert order.tolist() == [[1, 0]]
    assert counts.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_reference_runs_in_any_dtype(dtype):
    problem = make_problem(1, 1, 6, 8, dtype)
    out, lse = category_attention(
        problem.q, problem.k, problem.v, problem.categories, backend="reference", return_lse=True
    )
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_hard_policy_does_not_count_by_its_value():
    """Logits that rule a category out are such a policy."""
    problem = make_problem(2, 2, 9, 16)
    tokens = (problem.q, problem.k, problem.v, problem.categories)
    logits = torch.where(one_hot(problem.categories) > 0, 0.0, -torch.inf).requires_grad_()
    out = category_attention(*tokens, logits, backend="reference")
    assert torch.equal(out, category_attention(*tokens, backend="reference"))
    assert torch.autograd.grad(out.sum(), logits)[0].isfinite().all()


def test_no_images():
    problem = make_problem(2, 2, 9, 16)
    q, categories = problem.q[:0], problem.categories[:0]
    assert separate_attention(q, q, q, categories).shape == q.shape


@pytest.mark.parametrize("which", ["k", "v"])
def test_what_is_not_finite_stays_with_those_who_see_it(which):
    """NaN in a T token reaches T and A, out and gradients alike, and no token of S."""
    problem = make_problem(1, 2, 12, 8, policy=False)
    problem.categories[:] = torch.tensor([0, 1, 2] * 4, dtype=torch.uint8)
    getattr(problem, which)[0, 0, 3] = torch.nan
    in_s = problem.categories[0] == 1
    result = solve(replace(problem, grad_out=problem.grad_out * in_s[:, None]), "reference")
    assert result["out"][0, 0, in_s].isfinite().all()
    assert result["out"][0, 0, ~in_s].isnan().all()
    assert result["out"][0, 1].isfinite().all()
    assert result["grad_q"][0, 0, in_s].isfinite().all()


def test_scores_of_float16_beyond_its_range():
    """|q . k| of 3e5: float16 ends at 65504, but the scores are float32."""
    problem = make_problem(1, 1, 12, 16, torch.float16)
    problem = replace(problem, q=problem.q * 150, k=problem.k * 150)
    assert (problem.q.double() @ problem.k.double().transpose(-1, -2)).abs().max() > 1e5
    result = solve(problem, "reference")
    exact = solve(problem.to(torch.float64), "reference")["out"]
    assert all(value.isfinite().all() for value in result.values())
    assert (result["out"] - exact).abs().max() <= 2 * torch.finfo(torch.float16).eps * exact.abs().max()
