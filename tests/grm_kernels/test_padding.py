"""Tokens that do not count: results are those of the tokens that do, alone; and what padding holds is not looked at."""

from dataclasses import replace

import pytest
import torch

from grm_kernels import PADDING, Category, category_attention, category_attention_packed, ops, separate_attention
from grm_kernels.categories import one_hot
from tests.grm_kernels.problems import ONLY_PADDING, PADDED, assert_agrees, make_problem, solve

#: Tokens that count, of three images of a batch.
LENGTHS = (45, 0, 12)
RESULTS = ("out", "lse", "grad_q", "grad_k", "grad_v", "grad_policy")


def padded_batch(device="cpu", dtype=torch.float32, n=70, **options):
    """A batch of images of different lengths, their tokens at random places; what counts, (3, N)."""
    problem = make_problem(3, 2, n, 16, dtype, device=device, **options)
    valid = torch.zeros(3, n, dtype=torch.bool)
    for image, length in enumerate(LENGTHS):
        valid[image, torch.randperm(n)[:length]] = True
    return problem, valid.to(device)


def solve_padded(problem, valid, backend):
    """As `solve`, with `valid`."""
    leaves = {name: getattr(problem, name) for name in ("q", "k", "v", "policy")}
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items() if leaf is not None}
    out, lse = category_attention(
        *(leaves[name] for name in "qkv"),
        problem.categories,
        leaves.get("policy"),
        valid=valid,
        soft=problem.soft,
        backend=backend,
        return_lse=True,
    )
    grads = torch.autograd.grad([out, lse], leaves.values(), [problem.grad_out, problem.grad_lse.to(lse.dtype)])
    return {"out": out, "lse": lse, **{f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}}


def alone(problem, valid, image):
    """The problem of one image's tokens that count."""
    rows = valid[image]
    cut = {name: getattr(problem, name)[image : image + 1, :, rows] for name in ("q", "k", "v", "grad_out", "grad_lse")}
    per_token = {name: getattr(problem, name) for name in ("categories", "policy")}
    cut |= {name: x if x is None else x[image : image + 1, rows] for name, x in per_token.items()}
    return replace(problem, **cut)


@pytest.mark.parametrize("name", ["backend", "reference"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_an_image_does_not_know_of_its_padding(backend, soft, name):
    """Every row that counts is as if the image's tokens were alone; NaN in what does not count is not seen."""
    name = backend.name if name == "backend" else name
    problem, valid = padded_batch(backend.device, soft=soft)
    hidden = {x: getattr(problem, x).clone() for x in ("q", "k", "v", "grad_out", "grad_lse", "policy")}
    for x in hidden.values():
        per_token = x.transpose(1, 2) if x.shape[1] == 2 else x  # (B, N, ...)
        per_token[~valid] = torch.nan
    result = solve_padded(replace(problem, **hidden), valid, name)
    for image, length in enumerate(LENGTHS):
        rows = valid[image]
        expected = solve(alone(problem, valid, image), name) if length else {}
        for key in RESULTS:
            tokens = result[key][image].transpose(0, 1) if result[key].shape[1] == 2 else result[key][image]
            nothing = -torch.inf if key == "lse" else 0
            assert (tokens[~rows] == nothing).all(), key
            if length:
                value = expected[key][0].transpose(0, 1) if expected[key].shape[1] == 2 else expected[key][0]
                bound = 16 * torch.finfo(torch.float32).eps * float(value.abs().max())
                torch.testing.assert_close(tokens[rows], value, rtol=0, atol=bound, msg=key)


def test_the_same_bits_as_without_padding(backend):
    """What is gathered is what counts, so that the kernels do the same sums."""
    problem, valid = padded_batch(backend.device, policy=False)
    padded = category_attention(problem.q, problem.k, problem.v, problem.categories, valid=valid, backend=backend.name)
    one = alone(problem, valid, 0)
    out = category_attention(one.q, one.k, one.v, one.categories, backend=backend.name)
    assert torch.equal(padded[0, :, valid[0]], out[0])


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
@pytest.mark.parametrize("shares", [PADDED, ONLY_PADDING], ids=str)
@pytest.mark.parametrize("n", [1, 9, 40, 150])
def test_padding_among_the_categories(backend, n, shares, policy):
    problem = make_problem(2, 2, n, 16, shares=shares, policy=policy, device=backend.device, seed=n)
    assert_agrees(problem, backend.name)


def test_parts_of_a_head(backend):
    """Most tokens of a long sequence are padding: some parts of the backward pass have no query."""
    if backend.name != "cpu":
        pytest.skip("only these kernels divide the queries of a head into parts")
    assert_agrees(make_problem(1, 1, 700, 8, shares=(0.05, 0.05, 0.05, 0.85)), "cpu")


def test_valid_is_the_category_of_padding(backend):
    problem, valid = padded_batch(backend.device)
    marked = problem.categories.masked_fill(~valid, PADDING)
    expected = solve(replace(problem, categories=marked), backend.name)
    for name, result in solve_padded(problem, valid, backend.name).items():
        assert torch.equal(result, expected[name]), name


def test_categories_of_what_is_not_valid_are_not_read():
    problem, valid = padded_batch(policy=False)
    problem.categories[~valid] = 77
    assert category_attention(problem.q, problem.k, problem.v, problem.categories, valid=valid).isfinite().all()


def test_one_vector_for_all_images(backend):
    problem, _ = padded_batch(backend.device, policy=False)
    valid = torch.arange(70, device=backend.device) < 33
    arguments = (problem.q, problem.k, problem.v, problem.categories)
    expected = category_attention(*arguments, valid=valid.expand(3, 70), backend=backend.name)
    for form in (valid, valid.unsqueeze(0)):
        assert torch.equal(category_attention(*arguments, valid=form, backend=backend.name), expected)


def test_packed(backend):
    problem, valid = padded_batch(backend.device, packed=True, policy=False)
    qkv = problem.q._base.view(3, 70, 3, 2, 16).detach().requires_grad_()
    out = category_attention_packed(qkv, problem.categories, valid=valid, backend=backend.name)
    (grad,) = torch.autograd.grad(out, qkv, problem.grad_out)
    zero = replace(problem, grad_lse=torch.zeros_like(problem.grad_lse))
    expected = solve_padded(zero, valid, backend.name)
    assert torch.equal(out, expected["out"])
    for part, name in zip(ops.unpack(grad), "qkv", strict=True):
        assert torch.equal(part, expected[f"grad_{name}"])


def test_compiles_and_maps(backend):
    problem, valid = padded_batch(backend.device, policy=False)

    def attend(q, valid):
        return category_attention(
            q, problem.k[:1], problem.v[:1], problem.categories[:1], valid=valid, backend=backend.name
        )

    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(problem.q[:1], valid[:1]), attend(problem.q[:1], valid[:1]))
    mapped = torch.func.vmap(attend)(problem.q.unsqueeze(1), valid.unsqueeze(1))
    for image in range(3):
        assert torch.equal(mapped[image], attend(problem.q[image : image + 1], valid[image : image + 1]))


def test_gradients_by_finite_differences():
    """Of the reference, twice: rows of padding are constants."""
    problem = make_problem(1, 2, 6, 4, torch.float64, soft=True)
    valid = torch.tensor([[True, False, True, True, False, True]])
    inputs = [x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v, problem.policy.double())]

    def attend(q, k, v, policy):
        return category_attention(q, k, v, None, policy, valid=valid, soft=True, backend="reference")

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_a_policy_of_padding_may_be_anything():
    """Its arg-max is not compared, its gradient is 0."""
    problem, valid = padded_batch()
    policy = problem.policy.clone()
    policy[~valid] = torch.tensor([torch.nan, -torch.inf, 3.0])
    policy.requires_grad_()
    q = problem.q.clone().requires_grad_()
    out = category_attention(q, problem.k, problem.v, problem.categories, policy, valid=valid)
    grad_policy, grad_q = torch.autograd.grad(out.sum(), [policy, q])
    assert (grad_policy[~valid] == 0).all() and grad_policy.isfinite().all() and grad_q.isfinite().all()


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        ([True], TypeError, "valid: expected a tensor, got list"),
        (torch.ones(3, 70), TypeError, "valid: expected dtype torch.bool, got torch.float32"),
        (torch.ones(3, 69, dtype=torch.bool), ValueError, r"valid: expected shape .* or \(70,\).* got"),
        (
            torch.ones(3, 70, dtype=torch.bool, device="meta"),
            ValueError,
            "valid: expected the device of q cpu, got meta",
        ),
    ],
    ids=["list", "float", "short", "meta"],
)
def test_bad_input(valid, error, message):
    problem, _ = padded_batch()
    with pytest.raises(error, match=message):
        category_attention(problem.q, problem.k, problem.v, problem.categories, valid=valid)


def test_the_baseline_of_the_paper_has_rows_of_zeros():
    problem, valid = padded_batch(policy=False)
    categories = problem.categories.masked_fill(~valid, PADDING)
    arguments = (problem.q, problem.k, problem.v, categories)
    torch.testing.assert_close(separate_attention(*arguments), category_attention(*arguments))


def test_padding_has_no_column_in_a_policy():
    categories = torch.tensor([[0, 1, 2, 3, 200]], dtype=torch.uint8)
    assert one_hot(categories).tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]]
    assert PADDING not in list(Category)
