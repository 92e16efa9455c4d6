"""What torch expects of an operator: registration, compilation, export, autocast, fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from grm_kernels import category_attention, ops
from tests.grm_kernels.problems import make_problem


def arguments(problem):
    soft = problem.policy if problem.soft else None
    return (problem.q, problem.k, problem.v, problem.categories, soft, 0.25)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_forward_operator(backend, soft):
    problem = make_problem(2, 2, 9, 16, soft=soft, packed=True, device=backend.device)
    torch.library.opcheck(ops.forward(backend.name), arguments(problem))


@pytest.mark.parametrize("policy_grad", [False, True], ids=["no-policy", "policy"])
def test_backward_operator(backend, policy_grad):
    problem = make_problem(2, 2, 9, 16, device=backend.device)
    out, lse = ops.forward(backend.name)(*arguments(problem))
    torch.library.opcheck(
        ops.backward(backend.name),
        (
            problem.grad_out,
            problem.grad_lse,
            *(problem.q, problem.k, problem.v, out, lse),
            *(problem.categories, None, 0.25, policy_grad),
        ),
    )


@pytest.mark.parametrize("mode", ["hard", "soft", "lse"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_into_one_graph(backend, mode, dynamic):
    """Forward and backward, traced by dynamo and by aot autograd, give the bits of the eager call."""

    def loss(q, k, v, policy, categories):
        out = category_attention(
            q * 2, k, v, categories, policy, soft=mode == "soft", backend=backend.name, return_lse=mode == "lse"
        )
        return out[0].sum() + (out[1] ** 2).sum() if mode == "lse" else (out**2).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (9, 14) if dynamic else (9,):
        problem = make_problem(2, 2, n, 16, device=backend.device)
        results = []
        for function in (loss, compiled):
            leaves = [x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v, problem.policy)]
            value = function(*leaves, problem.categories)
            results.append([value.detach(), *torch.autograd.grad(value, leaves)])
        for eager, traced in zip(*results, strict=True):
            assert torch.equal(eager, traced)


def test_compiles_with_inductor():
    """The default compiler, once: the others only trace."""
    problem = make_problem(1, 2, 20, 16)
    q = problem.q.clone().requires_grad_()

    def loss(q):
        return category_attention(q + 1, problem.k, problem.v, problem.categories).square().mean()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(q), q), torch.autograd.grad(loss(q), q))


class Attention(torch.nn.Module):
    """The operator as a module, which is what can be exported."""

    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    def forward(self, q, k, v, categories):
        return category_attention(q, k, v, categories, backend=self.backend)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_exports(backend, requires_grad):
    problem = make_problem(1, 2, 9, 16, device=backend.device)
    inputs = (problem.q.clone().requires_grad_(requires_grad), problem.k, problem.v, problem.categories)
    program = torch.export.export(Attention(backend.name), inputs)
    assert any(f"{backend.name}_forward" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(*inputs), Attention(backend.name)(*inputs))


def test_exported_program_takes_other_strides(backend):
    """Export guards no strides: what is not adjacent is copied then, and not read as if it were."""
    problem = make_problem(1, 2, 9, 16, device=backend.device)
    program = torch.export.export(Attention(backend.name), (problem.q, problem.k, problem.v, problem.categories))
    transposed = problem.k.transpose(2, 3).contiguous().transpose(2, 3)
    expected = Attention(backend.name)(problem.q, problem.k, problem.v, problem.categories)
    assert torch.equal(program.module()(problem.q, transposed, problem.v, problem.categories), expected)


def test_exported_program_says_that_it_has_no_gradient(backend):
    problem = make_problem(1, 2, 9, 16, device=backend.device)
    q = problem.q.clone().requires_grad_()
    inputs = (q, problem.k, problem.v, problem.categories)
    out = torch.export.export(Attention(backend.name), inputs).module()(*inputs)
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"):
        out.sum().backward()


class CalledOperators(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_packed_input_is_not_copied(backend):
    """Forward and backward from the views of a packed projection: one operator each, and views."""
    problem = make_problem(2, 3, 20, 16, packed=True, policy=False, device=backend.device)
    leaves = [x.requires_grad_() for x in (problem.q, problem.k, problem.v)]
    with CalledOperators() as called:
        out = category_attention(*leaves, problem.categories, backend=backend.name)
        torch.autograd.grad(out.transpose(1, 2).reshape(2, 20, 48), leaves, torch.ones(2, 20, 48, device=out.device))
    ours = [name for name in called.names if name.startswith("grm_kernels")]
    assert ours == [f"grm_kernels.{backend.name}_forward.default", f"grm_kernels.{backend.name}_backward.default"]
    copies = {"aten.copy_.default", "aten.clone.default", "aten._to_copy.default", "aten.contiguous.default"}
    assert not copies & set(called.names)


def test_autocast_casts_each_tensor_like_torch_does():
    """Mixed dtypes meet in autocast's; float64 stays."""
    problem = make_problem(1, 2, 12, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = category_attention(problem.q, problem.k, problem.v.bfloat16(), problem.categories)
        exact = category_attention(*(x.double() for x in (problem.q, problem.k, problem.v)), problem.categories)
    assert out.dtype == torch.bfloat16
    assert exact.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    problem = make_problem(1, 2, 12, 16)
    with torch.autocast("cpu", dtype=dtype):
        q = problem.q.clone().requires_grad_()
        out = category_attention(q, problem.k, problem.v, problem.categories)
    assert out.dtype == dtype
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32
    direct = category_attention(*(x.to(dtype) for x in (problem.q, problem.k, problem.v)), problem.categories)
    assert torch.equal(out, direct)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 100.0), (torch.bfloat16, 4.0)], ids=str)
def test_autocast_leaves_the_references_scores_in_float32(dtype, size):
    """Where the reference serves by itself, too: products beyond 65504, and scores whose third digit counts."""
    problem = make_problem(1, 2, 12, 320, policy=False)
    q, k, v = size * problem.q, size * problem.k, problem.v
    direct = category_attention(*(x.to(dtype) for x in (q, k, v)), problem.categories, backend="reference")
    with torch.autocast("cpu", dtype=dtype):
        named = category_attention(q, k, v, problem.categories, backend="reference")
        chosen = category_attention(q, k, v, problem.categories)
    assert direct.isfinite().all() and torch.equal(named, direct) and torch.equal(chosen, direct)


def test_fake_tensors(backend):
    problem = make_problem(
        2, 2, 9, 16, torch.bfloat16 if backend.name == "cpu" else torch.float16, device=backend.device
    )
    with FakeTensorMode() as mode:
        q, k, v, categories = (mode.from_tensor(x) for x in (problem.q, problem.k, problem.v, problem.categories))
        out, lse = category_attention(q, k, v, categories, backend=backend.name, return_lse=True)
    real, real_lse = category_attention(
        problem.q, problem.k, problem.v, problem.categories, backend=backend.name, return_lse=True
    )
    for fake, actual in ((out, real), (lse, real_lse)):
        assert (fake.shape, fake.dtype, fake.stride()) == (actual.shape, actual.dtype, actual.stride())


def test_no_graph_is_kept_without_gradients(backend):
    problem = make_problem(1, 1, 5, 16, device=backend.device)
    q = problem.q.clone().requires_grad_()
    with torch.no_grad():
        assert category_attention(q, problem.k, problem.v, problem.categories, backend=backend.name).grad_fn is None
