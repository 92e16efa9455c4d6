"""Forms of the arguments: categories of all images, of other types and by head, grouped heads, the module."""

import pytest
import torch

from grm_kernels import Category, CategoryAttention, category_attention, category_attention_packed, ops
from tests.grm_kernels.problems import make_problem
from tests.grm_kernels.test_torch import CalledOperators

INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64
)  # fmt: skip


def attend_and_differentiate(tokens, grad_out, categories, policy, backend, **options):
    """out, lse and the gradients of tokens and policy."""
    leaves = [x.detach().clone().requires_grad_() for x in (*tokens, policy) if x is not None]
    q, k, v = leaves[:3]
    policy = None if policy is None else leaves[3]
    out, lse = category_attention(q, k, v, categories, policy, backend=backend, return_lse=True, **options)
    return out, lse, *torch.autograd.grad((out * grad_out).sum() + lse.sum(), leaves)


def assert_close(results, expected):
    """To a few roundings of float32 of the largest value."""
    for result, value in zip(results, expected, strict=True):
        bound = 32 * torch.finfo(torch.float32).eps * float(value.abs().max())
        torch.testing.assert_close(result.double(), value.double(), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_categories_of_any_integer(backend, dtype):
    problem = make_problem(2, 1, 12, 16, device=backend.device, policy=False)
    arguments = (problem.q, problem.k, problem.v)
    expected = category_attention(*arguments, problem.categories, backend=backend.name)
    assert torch.equal(category_attention(*arguments, problem.categories.to(dtype), backend=backend.name), expected)


def test_categories_of_bool_are_taken_by_value(backend):
    """False is T, True is S."""
    problem = make_problem(2, 1, 12, 16, shares=(0.5, 0.5, 0), device=backend.device, policy=False)
    arguments = (problem.q, problem.k, problem.v)
    expected = category_attention(*arguments, problem.categories, backend=backend.name)
    in_s = problem.categories == Category.S
    assert torch.equal(category_attention(*arguments, in_s, backend=backend.name), expected)


def test_values_beyond_a_byte_are_seen():
    problem = make_problem(1, 1, 4, 16, policy=False)
    with pytest.raises(ValueError, match=r"categories: expected values .* got 256"):
        category_attention(problem.q, problem.k, problem.v, torch.full((1, 4), 256))
    # Where nobody looks they count as A, as any bad value does.
    compiled = torch.compile(category_attention, backend="aot_eager", fullgraph=True)
    in_a = torch.full((1, 4), Category.A)
    for bad in (256, -1):
        out = compiled(problem.q, problem.k, problem.v, torch.full((1, 4), bad))
        assert torch.equal(out, category_attention(problem.q, problem.k, problem.v, in_a))


def test_one_vector_of_categories_for_all_images(backend):
    problem = make_problem(3, 2, 12, 16, device=backend.device, policy=False)
    tokens, vector = (problem.q, problem.k, problem.v), problem.categories[0]
    expected = attend_and_differentiate(tokens, problem.grad_out, vector.expand(3, 12), None, backend.name)
    for form in (vector, vector.unsqueeze(0), vector.long()):
        results = attend_and_differentiate(tokens, problem.grad_out, form, None, backend.name)
        for result, value in zip(results, expected, strict=True):
            assert torch.equal(result, value)


@pytest.mark.parametrize("name", ["backend", "reference"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_categories_by_head(backend, soft, name):
    """Every head is as if it were alone with its categories, its policy and the tokens that count."""
    name = backend.name if name == "backend" else name
    b, h, n = 2, 3, 40
    problem = make_problem(b, h, n, 16, packed=True, device=backend.device)
    by_head = make_problem(b * h, 1, n, 16, soft=soft, device=backend.device, seed=1)
    categories = None if soft else by_head.categories.view(b, h, n)
    policy = by_head.policy.view(b, h, n, 3)
    valid = torch.rand(b, n, device=backend.device) < 0.7
    options = {"soft": soft, "valid": valid}
    tokens = (problem.q, problem.k, problem.v)
    results = attend_and_differentiate(tokens, problem.grad_out, categories, policy, name, **options)
    for i in range(h):
        expected = attend_and_differentiate(
            [x[:, i : i + 1] for x in tokens],
            problem.grad_out[:, i : i + 1],
            None if soft else categories[:, i],
            policy[:, i],
            name,
            **options,
        )
        finite = [x[:, i : i + 1] for x in results[:5]] + [results[5][:, i]]
        finite[1], lse = (x.masked_fill(x == -torch.inf, 0) for x in (finite[1], expected[1]))
        assert_close(finite, (expected[0], lse, *expected[2:]))


def test_categories_are_not_read_with_a_soft_policy(backend):
    """Not even by head, where the policy is one of all heads."""
    problem = make_problem(2, 3, 12, 16, soft=True, device=backend.device)
    options = {"soft": True, "backend": backend.name}
    expected = category_attention(problem.q, problem.k, problem.v, None, problem.policy, **options)
    for categories in (torch.full((2, 3, 12), 7), torch.zeros(5)):
        given = category_attention(
            problem.q, problem.k, problem.v, categories.to(backend.device), problem.policy, **options
        )
        assert torch.equal(given, expected)


def test_packed_by_head(backend):
    problem = make_problem(2, 3, 12, 16, packed=True, device=backend.device, policy=False)
    qkv = problem.q._base.view(2, 12, 3, 3, 16)
    categories = torch.randint(0, 3, (2, 3, 12), device=backend.device)
    out = category_attention_packed(qkv, categories, backend=backend.name)
    expected = category_attention(problem.q, problem.k, problem.v, categories, backend=backend.name)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("n", [20, 150])
def test_grouped_heads(backend, n, kv_heads, dtype):
    """As with k and v repeated: values and gradients, whose parts are added up in the inputs' dtype, as torch does."""
    problem = make_problem(2, 4, n, 16, dtype, device=backend.device)
    k, v = problem.k[:, :kv_heads], problem.v[:, :kv_heads]
    tokens = (problem.q, k, v)
    rest = (problem.grad_out, problem.categories, problem.policy)

    def repeated(x):
        return x.repeat_interleave(4 // kv_heads, 1)

    wide = attend_and_differentiate((problem.q, repeated(k), repeated(v)), *rest, backend.name)
    results = attend_and_differentiate(tokens, *rest, backend.name)
    for index in (0, 1, 2, 5):
        assert torch.equal(results[index], wide[index])
    for index in (3, 4):
        assert results[index].shape == k.shape
        assert torch.equal(results[index], wide[index].unflatten(1, (kv_heads, -1)).sum(2))
    exact = attend_and_differentiate([x.double() for x in tokens], problem.grad_out.double(), *rest[1:], "reference")
    eager = attend_and_differentiate(tokens, *rest, "reference")
    for result, low, value in zip(results, eager, exact, strict=True):
        bound = 2 * (low - value).abs().max() + 8 * torch.finfo(dtype).eps * value.abs().max()
        assert (result - value).abs().max() <= bound


def test_grouped_heads_are_not_expanded(backend):
    """Forward pass and backward pass read the keys where they lie."""
    problem = make_problem(1, 4, 12, 16, device=backend.device, policy=False)
    q, k, v = (x.detach().requires_grad_() for x in (problem.q, problem.k[:, :2], problem.v[:, :2]))
    with CalledOperators() as called:
        out = category_attention(q, k, v, problem.categories, backend=backend.name)
        torch.autograd.grad(out, [q, k, v], problem.grad_out)
    assert not [name for name in called.names if "repeat" in name or "clone" in name or "copy" in name]


def test_grouped_heads_in_a_graph(backend):
    problem = make_problem(2, 4, 12, 16, device=backend.device, policy=False)
    k, v = problem.k[:, :2].contiguous(), problem.v[:, :2].contiguous()
    torch.library.opcheck(ops.forward(backend.name), (problem.q, k, v, problem.categories, None, 0.25))

    def step(k):
        out = category_attention(problem.q, k, v, problem.categories, backend=backend.name)
        return torch.autograd.grad(out.square().sum(), k)[0]

    def loss(k):
        return category_attention(problem.q, k, v, problem.categories, backend=backend.name).square().sum()

    leaf = k.clone().requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(leaf), leaf)[0], step(leaf))
    mapped = torch.func.vmap(torch.func.grad(loss))(torch.stack([k, 2 * k]))
    assert_close(mapped, [step(x.clone().requires_grad_()) for x in (k, 2 * k)])


def test_the_operator_refuses_heads_that_do_not_divide():
    problem = make_problem(1, 3, 5, 16)
    with pytest.raises(RuntimeError, match="number of heads that does not divide"):
        ops.forward("cpu")(problem.q, problem.k[:, :2], problem.v[:, :2], problem.categories, None, 0.25)


# ---- the module ----


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
def test_module(backend, kv_heads):
    """Three products, attention by its definition, and a last product; gradients reach all parameters."""
    torch.manual_seed(0)
    module = CategoryAttention(64, 4, kv_heads=kv_heads).to(backend.device)
    x = torch.randn(2, 20, 64, device=backend.device)
    categories = torch.randint(0, 3, (2, 20), device=backend.device)
    valid = torch.rand(2, 20, device=backend.device) < 0.8
    heads = kv_heads or 4
    q, k, v = (x @ module.qkv.weight.T + module.qkv.bias).split((64, 16 * heads, 16 * heads), -1)
    q, k, v = (t.view(2, 20, -1, 16).transpose(1, 2) for t in (q, k, v))
    out = category_attention(q, k, v, categories, valid=valid, backend="reference").transpose(1, 2).reshape(2, 20, 64)
    expected = out @ module.projection.weight.T + module.projection.bias
    result = module(x, categories, valid=valid, backend=backend.name)
    torch.testing.assert_close(result, expected)
    assert torch.allclose(result[~valid], module.projection.bias)
    result.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_module_with_a_policy_and_a_soft_one():
    module = CategoryAttention(32, 2, bias=False)
    assert [name for name, _ in module.named_parameters()] == ["qkv.weight", "projection.weight"]
    x, policy = torch.randn(1, 9, 32), torch.randn(1, 9, 3).softmax(-1).requires_grad_()
    module(x, None, policy, soft=True).sum().backward()
    soft, policy.grad = policy.grad, None
    module(x, policy.argmax(-1), policy).sum().backward()
    assert soft.isfinite().all() and soft.abs().max() > 0 and policy.grad.abs().max() > 0


def test_module_compiles():
    module = CategoryAttention(32, 2)
    x, categories = torch.randn(2, 9, 32), torch.randint(0, 3, (2, 9), dtype=torch.uint8)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, categories), module(x, categories))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((30, 4), {}, "heads: expected a divisor of the width 30, got 4"),
        ((32, 0), {}, "heads: expected a divisor of the width 32, got 0"),
        ((32, 4), {"kv_heads": 3}, "kv_heads: expected a divisor of 4 heads, got 3"),
    ],
)
def test_module_of_numbers_that_do_not_divide(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        CategoryAttention(*arguments, **options)


def test_module_of_another_width():
    with pytest.raises(ValueError, match=r"x: expected shape \(B, N, 32\), got \(2, 9, 16\)"):
        CategoryAttention(32, 2)(torch.randn(2, 9, 16), torch.zeros(9, dtype=torch.uint8))
