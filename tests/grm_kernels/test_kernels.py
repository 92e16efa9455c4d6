"""Every compiled backend against the float64 reference: values, lse and all gradients."""

import mmap
import sys
from dataclasses import replace

import pytest
import torch

from grm_kernels import category_attention
from tests.grm_kernels.problems import MIXED, PADDED, SHARES, assert_agrees, make_problem, solve

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request, backend):
    if request.param not in backend.dtypes:
        pytest.skip(f"{backend} does not run {request.param} here")
    return request.param


@pytest.mark.parametrize("n", [1, 2, 7, 33, 130])
def test_token_counts(backend, dtype, n):
    assert_agrees(make_problem(2, 2, n, 32, dtype, device=backend.device), backend.name)


@pytest.mark.parametrize("shares", (*SHARES, PADDED), ids=str)
@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
def test_category_shares(backend, dtype, shares, policy):
    problem = make_problem(2, 1, 77, 16, dtype, shares=shares, policy=policy, device=backend.device)
    assert_agrees(problem, backend.name)


@pytest.mark.parametrize("tokens", [(64, 256), (64, 400)], ids=str)
def test_tracker_sizes(backend, dtype, tokens):
    """Template tokens first, then search tokens of categories S and A."""
    template, search = tokens
    problem = make_problem(1, 2, template + search, 64, dtype, packed=True, device=backend.device)
    problem.categories[:, :template] = 0
    problem.categories[:, template:].clamp_(min=1)
    problem.policy.copy_(torch.nn.functional.one_hot(problem.categories.long(), 3))
    assert_agrees(problem, backend.name)


@pytest.mark.parametrize("share", [(0.5, 0.5, 0), MIXED], ids=str)
def test_saturation_of_blocked_pairs(backend, dtype, share):
    """Scores so large that exp(S_ij - lse_i) of some blocked pairs is far above the bound, even infinite."""
    problem = make_problem(1, 2, 40, 16, dtype, shares=share, scale=12.0, device=backend.device)
    exact = solve(problem.to(torch.float64), "reference")["grad_policy"]
    assert exact.abs().max() > 1e5, "the problem does not reach the saturation"
    assert_agrees(problem, backend.name)


@pytest.mark.parametrize("n", [1, 50, 161])
def test_soft_policy(backend, dtype, n):
    assert_agrees(make_problem(2, 2, n, 48, dtype, soft=True, device=backend.device), backend.name)


def test_soft_policy_at_the_one_hot_equals_categories(backend):
    """The gradient of the hard form, policy included, is that of the soft form at the one-hot."""
    problem = make_problem(2, 3, 61, 32, device=backend.device)
    hard = solve(problem, backend.name)
    soft = solve(replace(problem, categories=None, soft=True), backend.name)
    for name, expected in hard.items():
        rounding = 64 * torch.finfo(torch.float32).eps * expected.abs().max()
        torch.testing.assert_close(soft[name], expected, rtol=0, atol=rounding.item(), msg=name)


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_scale(backend, scale):
    assert_agrees(make_problem(1, 2, 40, 16, scale=scale, device=backend.device), backend.name)


def test_strided_input_is_read_in_place(backend):
    """Views of a packed projection, and q, k, v with unused rows and channels between, give the same bits."""
    dense = make_problem(2, 3, 50, 32, device=backend.device)
    wide = torch.full((2, 3, 100, 48), float("nan"), device=backend.device)

    def spread(x):
        view = wide.clone()[:, :, ::2, 8:40]
        view.copy_(x)
        assert not view.is_contiguous()
        return view

    packed = torch.stack([dense.q, dense.k, dense.v], dim=2).permute(0, 3, 2, 1, 4).contiguous()  # (B, N, 3, H, D)
    packed = packed.permute(2, 0, 3, 1, 4).unbind(0)
    expected = solve(dense, backend.name)
    for q, k, v in (packed, [spread(x) for x in (dense.q, dense.k, dense.v)]):
        for name, result in solve(replace(dense, q=q, k=k, v=v), backend.name).items():
            assert torch.equal(result, expected[name]), name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reserves memory in a way of Linux")
def test_offsets_beyond_32_bits(backend):
    """Heads and tokens so far apart that their offsets do not fit 32 bits, in memory that is reserved and not used."""
    if backend.device != "cpu":
        pytest.skip("reserves memory that a GPU would hold")
    dense = make_problem(1, 2, 40, 16, torch.float16)
    token, head = 2**26, 2**32
    elements = head + 40 * token
    flags = mmap.MAP_PRIVATE | 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
    names = ("q", "k", "v", "grad_out")
    memory = {name: torch.frombuffer(mmap.mmap(-1, 2 * elements, flags=flags), dtype=torch.float16) for name in names}
    wide = {
        name: memory[name].as_strided(dense.q.shape, (elements, head, token, 1)).copy_(getattr(dense, name))
        for name in names
    }
    expected, result = solve(dense, backend.name), solve(replace(dense, **wide), backend.name)
    for name, value in expected.items():
        assert torch.equal(result[name], value), name


def test_gradient_of_expanded_output_gradient(backend):
    """out.sum().backward() hands over a gradient of stride 0."""
    problem = make_problem(1, 2, 20, 16, device=backend.device)
    q = problem.q.clone().requires_grad_()
    category_attention(q, problem.k, problem.v, problem.categories, backend=backend.name).sum().backward()
    p = problem.q.clone().requires_grad_()
    category_attention(p, problem.k, problem.v, problem.categories, backend="reference").sum().backward()
    torch.testing.assert_close(q.grad, p.grad)


def test_output_merges_heads_without_a_copy(backend):
    problem = make_problem(2, 3, 20, 16, device=backend.device)
    out = category_attention(problem.q, problem.k, problem.v, problem.categories, backend=backend.name)
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("shape", [(0, 2, 5, 16), (2, 0, 5, 16)], ids=str)
def test_empty_batch_or_heads(backend, shape):
    tokens = [torch.zeros(shape, device=backend.device, requires_grad=True) for _ in range(3)]
    categories = torch.zeros(shape[0], 5, dtype=torch.uint8, device=backend.device)
    policy = torch.tensor([1.0, 0, 0], device=backend.device).repeat(shape[0], 5, 1).requires_grad_()
    out = category_attention(*tokens, categories, policy, backend=backend.name)
    out.sum().backward()
    assert out.shape == tokens[0].grad.shape == shape
    assert torch.equal(policy.grad, torch.zeros_like(policy))


def test_two_runs_give_the_same_bits(backend, dtype):
    problem = make_problem(2, 3, 100, 32, dtype, device=backend.device)
    first, second = solve(problem, backend.name), solve(problem, backend.name)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FFFFFFF], ids=hex)
def test_nan_in_scores_is_not_hidden(backend, bits):
    problem = make_problem(1, 1, 40, 16, shares=(0, 0, 1), device=backend.device)
    problem.q.view(torch.int32)[0, 0, 3, 5] = bits
    out = category_attention(problem.q, problem.k, problem.v, problem.categories, backend=backend.name)
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, 4:].isfinite().all()


def test_scores_far_below_zero(backend):
    """-4e31, by products that are exact: they are scores all the same, and their softmax is even."""
    problem = make_problem(1, 1, 40, 16, shares=(0, 0, 1), device=backend.device)
    q, k = torch.full_like(problem.q, 2.0**50), torch.full_like(problem.k, -(2.0**53))
    out = category_attention(q, k, problem.v, problem.categories, backend=backend.name)
    torch.testing.assert_close(out, problem.v.mean(2, keepdim=True).expand_as(out))


def test_nan_in_a_soft_policy_is_not_hidden(backend):
    problem = make_problem(1, 1, 40, 16, soft=True, device=backend.device)
    problem.policy[0, 7] = float("nan")
    out = category_attention(problem.q, problem.k, problem.v, None, problem.policy, soft=True, backend=backend.name)
    assert out.isnan().all()


@pytest.mark.parametrize("policy_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_soft_policy_that_adds_up_to_more_than_one(backend, policy_dtype):
    """Rounded probabilities near a one-hot make 1 - p s - s p negative: M is cut at 0."""
    problem = make_problem(1, 2, 64, 16, soft=True, scale=4.0, device=backend.device)
    likely = 12 * torch.nn.functional.one_hot(torch.randint(0, 3, (1, 64)), 3) + torch.randn(1, 64, 3)
    policy = likely.softmax(-1).to(backend.device, policy_dtype)
    policy[0, :4, 0] = 1.0  # and more so
    p, s = policy.double().unbind(-1)[:2]
    assert (1 - p[:, :, None] * s[:, None] - s[:, :, None] * p[:, None]).min() < 0
    assert_agrees(replace(problem, policy=policy.float()), backend.name)


@pytest.mark.parametrize("policy_dtype", [torch.float64, torch.bfloat16], ids=str)
def test_policy_alone_in_its_own_dtype(backend, policy_dtype):
    """Only the policy asks for a gradient; it comes back in the policy's dtype, accumulated in float32."""
    problem = make_problem(2, 2, 30, 16, device=backend.device)
    policy = problem.policy.to(policy_dtype).requires_grad_()
    out = category_attention(problem.q, problem.k, problem.v, problem.categories, policy, backend=backend.name)
    (grad,) = torch.autograd.grad(out, policy, problem.grad_out)
    zero = replace(problem, grad_lse=torch.zeros_like(problem.grad_lse))
    assert grad.dtype == policy_dtype
    assert torch.equal(grad, solve(zero, backend.name)["grad_policy"].to(policy_dtype))


def test_gradient_through_lse_alone(backend):
    problem = make_problem(1, 2, 30, 16, device=backend.device)
    grads = []
    for name in (backend.name, "reference"):
        q = problem.q.clone().requires_grad_()
        _, lse = category_attention(q, problem.k, problem.v, problem.categories, backend=name, return_lse=True)
        grads += torch.autograd.grad(lse, q, problem.grad_lse)
    torch.testing.assert_close(*grads)


def test_categories_of_any_stride(backend):
    problem = make_problem(2, 1, 30, 16, device=backend.device)
    wide = torch.full((2, 60), 9, dtype=torch.uint8, device=backend.device)
    wide[:, ::2] = problem.categories
    outputs = [
        category_attention(problem.q, problem.k, problem.v, categories, backend=backend.name)
        for categories in (problem.categories, wide[:, ::2])
    ]
    assert torch.equal(*outputs)


def test_results_are_rounded_to_nearest(backend, dtype):
    """A single token attends to itself: out is v, to the last bit; and half of it is v's exact half, rounded."""
    v = torch.linspace(-3, 3, 16).to(backend.device, dtype).view(1, 1, 1, 16)
    one = torch.zeros(1, 1, dtype=torch.uint8, device=backend.device)
    assert torch.equal(category_attention(v, v, v, one, backend=backend.name), v)
    # Two equal keys: the mean of two values, which the dtype cannot hold.
    pair = torch.cat([v, torch.nextafter(v, torch.full_like(v, 4))], dim=2)
    mean = pair.double().mean(2, keepdim=True).expand(-1, -1, 2, -1)
    zero = torch.zeros_like(pair)
    out = category_attention(zero, zero, pair, one.expand(1, 2), backend=backend.name)
    assert torch.equal(out, mean.to(dtype))


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
@pytest.mark.parametrize("name", ["kernel", "reference"])
def test_large_scores_give_finite_gradients(backend, policy, name):
    """Scores of 4e10, where neighbouring float32 are 4096 apart: lse says no more of a probability than that."""
    problem = make_problem(1, 2, 40, 16, policy=policy, device=backend.device)
    problem = replace(problem, q=problem.q * 2e5, k=problem.k * 2e5)
    for key, value in solve(problem, backend.name if name == "kernel" else "reference").items():
        assert value.isfinite().all(), key
