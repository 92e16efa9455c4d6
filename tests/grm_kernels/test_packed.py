"""`category_attention_packed`: the same numbers as with q, k, v of their own, and one gradient, not copied together."""

import pytest
import torch

from grm_kernels import category_attention, category_attention_packed, ops
from tests.grm_kernels.problems import make_problem
from tests.grm_kernels.test_torch import CalledOperators


def packed_problem(device="cpu", dtype=torch.float32, **options):
    """A problem, and its q, k, v as one (B, N, 3, H, D)."""
    problem = make_problem(2, 3, 20, 32, dtype, packed=True, device=device, **options)
    return problem, problem.q._base.view(2, 20, 3, 3, 32)


def solve(problem, qkv, backend, attend, lse=True):
    """out, lse and the gradients of qkv and of the policy."""
    qkv, policy = qkv.detach().clone().requires_grad_(), problem.policy.detach().requires_grad_()
    options = {"soft": problem.soft, "backend": backend, "return_lse": True}
    results = attend(qkv, problem.categories, policy, **options)
    grads = [problem.grad_out, problem.grad_lse]
    count = 2 if lse else 1
    return *results, *torch.autograd.grad(results[:count], [qkv, policy], grads[:count])


def unpacked(qkv, *arguments, **options):
    return category_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), *arguments, **options)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("lse", [False, True], ids=["out", "out-lse"])
def test_gives_the_same_bits(backend, soft, lse):
    problem, qkv = packed_problem(backend.device, soft=soft)
    expected = solve(problem, qkv, backend.name, unpacked, lse)
    for result, value in zip(solve(problem, qkv, backend.name, category_attention_packed, lse), expected, strict=True):
        assert torch.equal(result, value)


def test_the_reference_has_it_too():
    problem, qkv = packed_problem()
    for result, value in zip(
        solve(problem, qkv, "reference", category_attention_packed),
        solve(problem, qkv, "reference", unpacked),
        strict=True,
    ):
        assert torch.equal(result, value)


def test_one_gradient_is_written(backend):
    """Forward and backward are one operator each; nothing is copied or stacked."""
    problem, qkv = packed_problem(backend.device, policy=False)
    qkv = qkv.detach().requires_grad_()
    with CalledOperators() as called:
        out = category_attention_packed(qkv, problem.categories, backend=backend.name)
        (grad,) = torch.autograd.grad(out, qkv, problem.grad_out)
    assert grad.is_contiguous()
    ours = [name for name in called.names if name.startswith("grm_kernels")]
    name = f"grm_kernels.{backend.name}"
    assert ours == [f"{name}_forward_packed.default", f"{name}_backward_packed.default"]
    assert not [name for name in called.names if "copy" in name or "stack" in name or "cat" in name]


def test_operators(backend):
    problem, qkv = packed_problem(backend.device)
    rest = (problem.categories, None, 0.25)
    torch.library.opcheck(ops.forward(backend.name, packed=True), (qkv, *rest))
    out, lse = ops.forward(backend.name, packed=True)(qkv, *rest)
    for policy_grad in (False, True):
        arguments = (problem.grad_out, None, qkv, out, lse, *rest, policy_grad)
        torch.library.opcheck(ops.backward(backend.name, packed=True), arguments)


def test_any_strides(backend):
    problem, qkv = packed_problem(backend.device)
    wide = torch.full((2, 20, 3, 3, 40), torch.nan, device=backend.device)
    wide[..., 8:] = qkv
    outputs = [category_attention_packed(x, problem.categories, backend=backend.name) for x in (qkv, wide[..., 8:])]
    assert torch.equal(*outputs)


def test_compiles_and_follows_autocast(backend):
    if backend.name != "cpu":
        pytest.skip("once is enough")
    problem, qkv = packed_problem()
    torch.compiler.reset()
    compiled = torch.compile(category_attention_packed, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(qkv, problem.categories), category_attention_packed(qkv, problem.categories))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert category_attention_packed(qkv, problem.categories).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("qkv", "error", "message"),
    [
        ([1.0], TypeError, "qkv: expected a tensor, got list"),
        (
            torch.zeros(2, 20, 3, 96),
            ValueError,
            r"qkv: expected 5 dimensions \(B, N, 3, H, D\), got shape \(2, 20, 3, 96",
        ),
        (torch.zeros(2, 3, 20, 3, 32), ValueError, r"qkv: expected 5 dimensions \(B, N, 3, H, D\), got shape"),
        (torch.zeros(2, 0, 3, 3, 32), ValueError, "qkv: expected N and D of at least 1"),
        (torch.zeros(2, 20, 3, 3, 32).int(), TypeError, "qkv: expected float32, .* got torch.int32"),
        (torch.zeros(2, 20, 3, 32, 3).mT, ValueError, "qkv: expected the last stride to be 1"),
        (torch.zeros(2, 21, 3, 3, 32), ValueError, r"categories: expected shape \(2, 21\)"),
    ],
)
def test_bad_input(qkv, error, message):
    with pytest.raises(error, match=message):
        category_attention_packed(qkv, torch.zeros(2, 20, dtype=torch.uint8))
