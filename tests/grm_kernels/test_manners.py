"""What people do with operators of torch: in-place changes, counting, tracing, mapping, higher derivatives."""

import subprocess
import sys

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from grm_kernels import category_attention
from tests.grm_kernels.problems import make_problem


@pytest.mark.parametrize(
    ("scale", "error"),
    [
        (torch.tensor(0.5), TypeError),
        (torch.nn.Parameter(torch.tensor(0.5)), TypeError),
        ("1", TypeError),
        (1j, TypeError),
        (float("nan"), ValueError),
        (float("-inf"), ValueError),
    ],
    ids=repr,
)
def test_a_scale_that_is_no_finite_number_is_refused(scale, error):
    """A tensor most of all: its gradient would be lost in silence."""
    problem = make_problem(1, 1, 5, 16)
    with pytest.raises(error, match=r"scale: expected a finite number( of float32)? or None, got"):
        category_attention(problem.q, problem.k, problem.v, problem.categories, scale=scale)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_output_may_be_changed_in_place(backend, requires_grad):
    """As SDPA's: it is no view, and what its gradient needs is then missed, not read wrongly."""
    problem = make_problem(1, 2, 9, 16, device=backend.device)
    q = problem.q.clone().requires_grad_(requires_grad)
    arguments = (q, problem.k, problem.v, problem.categories)
    expected = category_attention(*arguments, backend=backend.name).detach() + problem.grad_out
    out = category_attention(*arguments, backend=backend.name)
    assert not out._is_view()
    out += problem.grad_out
    assert torch.equal(out, expected)
    assert out.transpose(1, 2).reshape(1, 9, 32).data_ptr() == out.data_ptr()
    if requires_grad:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@pytest.mark.parametrize("form", ["reference", "by head"])
def test_nor_is_that_of_other_forms_a_view(backend, form):
    problem = make_problem(1, 2, 9, 16, device=backend.device)
    categories = problem.categories.unsqueeze(1).expand(1, 2, 9) if form == "by head" else problem.categories
    name = "reference" if form == "reference" else backend.name
    with torch.no_grad():
        out, lse = category_attention(problem.q, problem.k, problem.v, categories, backend=name, return_lse=True)
    assert not out._is_view() and not lse._is_view()
    residual = problem.grad_out.clone().requires_grad_()
    expected = out + problem.grad_out
    out += residual
    assert torch.equal(out, expected) and out.requires_grad


def test_forward_mode_is_refused_or_right(backend):
    """Of nothing a derivative of 0 is made up; where no tensor carries one, all is as ever."""
    problem = make_problem(1, 2, 9, 16, policy=True, soft=backend.name != "cuda", device=backend.device)
    options = {"soft": problem.soft}

    def attend(name, q, policy):
        return category_attention(q, problem.k, problem.v, problem.categories, policy, backend=name, **options).sum()

    primals, tangents = (problem.q, problem.policy), (torch.randn_like(problem.q), torch.zeros_like(problem.policy))
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda *x: attend(backend.name, *x), primals, tangents)
    with pytest.raises(NotImplementedError, match="jvp"), torch.autograd.forward_ad.dual_level():
        attend(backend.name, torch.autograd.forward_ad.make_dual(problem.q, tangents[0]), problem.policy)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(attend(backend.name, *primals), attend(backend.name, *primals))
    _, derivative = torch.func.jvp(lambda *x: attend("reference", *x), primals, tangents)
    gradient = torch.func.grad(lambda q: attend(backend.name, q, problem.policy))(problem.q)
    assert derivative.item() == pytest.approx((gradient * tangents[0]).sum().item(), rel=1e-3, abs=1e-3)


def test_a_policy_that_is_not_at_hand_is_not_looked_at():
    """Wrapper subclasses have no memory of their own: a category is compared with nothing then."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            def plain(x):
                return x.inner if isinstance(x, cls) else x

            return function(*torch.utils._pytree.tree_map(plain, args), **(kwargs or {}))

    problem = make_problem(1, 2, 9, 16, policy=True)
    arguments = (problem.q, problem.k, problem.v, problem.categories)
    expected = category_attention(*arguments, problem.policy)
    assert torch.equal(category_attention(*arguments, Wrapper(problem.policy)), expected)


def test_nothing_is_mapped_over():
    problem = make_problem(2, 2, 9, 16)
    arguments = [torch.stack([x, x])[:0] for x in (problem.q, problem.k, problem.v, problem.categories)]
    assert torch.func.vmap(category_attention)(*arguments).shape == (0, 2, 2, 9, 16)


@pytest.mark.parametrize("policy", [False, True], ids=["no-policy", "policy"])
def test_operations_are_counted(backend, policy):
    """Two products of what is allowed forward; backward five, and two more of what is blocked for the policy."""
    problem = make_problem(2, 3, 20, 16, policy=policy, device=backend.device)
    leaves = [x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    p = problem.policy.clone().requires_grad_() if policy else None
    blocked = 2 * 3 * sum(int((c == 0).sum() * (c == 1).sum()) for c in problem.categories)
    allowed = 2 * 3 * 20 * 20 - blocked
    with FlopCounterMode(display=False) as counter:
        out = category_attention(*leaves, problem.categories, p, backend=backend.name)
    assert counter.get_total_flops() == 2 * 16 * 2 * allowed
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(out, [*leaves, p] if policy else leaves, problem.grad_out)
    assert counter.get_total_flops() == 2 * 16 * (5 * allowed + (2 * blocked if policy else 0))


@pytest.mark.parametrize("first", ["grm_kernels", "torch.utils.flop_counter", "searched"])
def test_formulas_are_there_whatever_is_imported_first(first):
    """And though somebody only asks where the counter is before it is imported."""
    if first == "searched":
        begins = "import grm_kernels, importlib.util; importlib.util.find_spec('torch.utils.flop_counter')"
    else:
        begins = f"import {first}, grm_kernels"
    code = f"""
import torch
{begins}
import torch.utils.flop_counter
print(torch.ops.grm_kernels.cpu_backward_packed in torch.utils.flop_counter.flop_registry)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr


def test_make_fx_follows_real_tensors(backend):
    problem = make_problem(1, 2, 9, 16, device=backend.device)

    def step(q, categories):
        q = q.detach().requires_grad_()
        out = category_attention(q, problem.k, problem.v, categories, backend=backend.name)
        return out, torch.autograd.grad(out.sum(), q)[0]

    arguments = (problem.q, problem.categories)
    graph = make_fx(step)(*arguments)
    assert f"{backend.name}_backward" in graph.code
    for traced, eager in zip(graph(*arguments), step(*arguments), strict=True):
        assert torch.equal(traced, eager)


def test_a_graph_of_the_gradient_that_passes_attention_by(backend):
    """With create_graph=True attention's own gradient comes out as always; a second derivative elsewhere is right."""
    problem = make_problem(1, 1, 5, 16, device=backend.device)
    q = problem.q.clone().requires_grad_()
    weight = torch.tensor(2.0, device=backend.device, requires_grad=True)
    out = category_attention(q, problem.k, problem.v, problem.categories, backend=backend.name)
    (plain,) = torch.autograd.grad(out.sum(), q, retain_graph=True)
    grad_q, grad_weight = torch.autograd.grad(out.sum() + weight**3, [q, weight], create_graph=True)
    assert torch.equal(grad_q, plain)
    assert torch.autograd.grad(grad_weight, weight)[0] == 12.0
    with pytest.raises(RuntimeError, match=f"gradient of backend '{backend.name}' was .*once more.*\"reference\""):
        torch.autograd.grad(grad_q.sum(), q)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("shared", [False, True], ids=["own keys", "shared keys"])
@pytest.mark.parametrize("reference", [False, True], ids=["backend", "reference"])
def test_images_can_be_mapped_over(backend, reference, shared, soft):
    """torch.func.vmap joins the batch: values, and each image's own gradients, with keys of its own or common ones."""
    problem = make_problem(3, 2, 9, 16, soft=soft, device=backend.device)
    name = "reference" if reference else backend.name

    def attend(q, k, policy, categories):
        categories = None if soft else categories.unsqueeze(0)
        q, k, policy = q.unsqueeze(0), k.unsqueeze(0), policy.unsqueeze(0)
        return category_attention(q, k, 2 * k, categories, policy, soft=soft, backend=name)[0]

    def loss(*image):
        return (attend(*image) ** 2).sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2))
    categories = problem.policy.argmax(-1).to(torch.uint8)
    images = (problem.q, problem.k[0] if shared else problem.k, problem.policy, categories)
    dimensions = (0, None if shared else 0, 0, 0)
    mapped = (torch.func.vmap(attend, dimensions)(*images), *torch.func.vmap(gradients, dimensions)(*images))
    for b in range(3):
        image = [x if dimension is None else x[b] for x, dimension in zip(images, dimensions, strict=True)]
        for one, all_images in zip((attend(*image), *gradients(*image)), mapped, strict=True):
            # Sums of some ten products, in another order: a few roundings of the largest.
            rounding = 16 * torch.finfo(one.dtype).eps * one.abs().max().item()
            torch.testing.assert_close(all_images[b], one, rtol=0, atol=rounding)
