"""`divide`, the division module as one operator: against its equations in float64, and what else it promises."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from grm_kernels import Category
from grm_kernels import division as kernels
from tests.grm_kernels.test_torch import CalledOperators

COLUMNS = {
    2: torch.tensor([Category.S, Category.A], dtype=torch.uint8),
    3: torch.tensor([Category.S, Category.A, Category.T], dtype=torch.uint8),
}
# B, template and search tokens, C, H1, H2: widths of GRM-B256 and of others; and sizes that nothing divides.
SHAPES = ((1, 64, 100, 768, 384, 192), (1, 36, 144, 192, 96, 48), (3, 5, 33, 40, 33, 17), (2, 1, 1, 1, 1, 1))


@dataclass(frozen=True)
class Problem:
    projected: torch.Tensor
    template: torch.Tensor
    weights: kernels.DivisionWeights
    columns: torch.Tensor
    options: dict

    def run(self, backend):
        return kernels.divide(
            self.projected, self.template, self.weights, self.columns, backend=backend, **self.options
        )

    def to(self, target):
        """On a device, or in a dtype."""
        tensors = [tensor.to(target) for tensor in (self.projected, self.template)]
        weights = kernels.DivisionWeights(*(tensor.to(target) for tensor in self.weights))
        where = {} if isinstance(target, torch.dtype) else {"device": target}
        options = {
            name: value.to(**where) if isinstance(value, torch.Tensor) else value
            for name, value in self.options.items()
        }
        return Problem(*tensors, weights, self.columns.to(**where), options)


def make_problem(shape, dtype=torch.float32, columns=2, device="cpu", **options):
    """Weights that keep the size of what goes through them, so that both columns win somewhere."""
    batch, n_template, n_search, c, first, second = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*size, scale=1.0):
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    weights = kernels.DivisionWeights(
        draw(first, c, scale=0.5 * c**-0.5),
        draw(first, scale=0.2),
        draw(second, first, scale=(2 / first) ** 0.5),
        draw(second, scale=0.2),
        draw(columns, second, scale=(2 / second) ** 0.5),
        draw(columns, scale=0.2),
    )
    tensors = draw(batch, n_search, first, scale=2.0), draw(batch, n_template, c)
    return Problem(*tensors, weights, COLUMNS[columns], options).to(dtype).to(device)


def decided_by(problem, logits):
    options = {name: value for name, value in problem.options.items() if name != "average"}
    return kernels.decide(logits, problem.columns, **options)


def assert_agrees(problem, backend, near=0.02):
    """Logits err at most twice as much as PyTorch in the same dtype, and a rounding for each of the three layers;
    categories are those of the exact logits, but where these are as near to the boundary as that.
    """
    exact = problem.to(torch.float64)
    _, expected = exact.run("reference")
    _, eager = problem.run("reference")
    categories, logits = problem.run(backend)
    assert (categories.dtype, logits.dtype) == (torch.uint8, torch.float32)
    eps = torch.finfo(problem.projected.dtype).eps
    bound = 2 * (eager - expected).abs().max() + 3 * eps * expected.abs().max()
    assert (logits - expected).abs().max() <= bound

    n_template = problem.template.shape[1]
    assert (categories[:, :n_template] == Category.T).all()
    top = expected.topk(2, dim=-1).values
    lead = expected[..., 1] - expected[..., 0]
    margin = problem.options.get("margin", 0.0)
    clear = (lead - margin).abs() > 2 * bound if len(problem.columns) == 2 else top[..., 0] - top[..., 1] > 2 * bound
    assert (~clear).float().mean() <= near
    assert torch.equal(categories[:, n_template:][clear], decided_by(exact, expected)[clear])
    # What was decided follows from the logits that are returned.
    assert torch.equal(categories[:, n_template:], decided_by(problem, logits))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(backend, shape):
    assert_agrees(make_problem(shape, device=backend.device), backend.name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sixteen_bits(backend, shape):
    for dtype in set(backend.dtypes) - {torch.float32}:
        assert_agrees(make_problem(shape, dtype, device=backend.device), backend.name, near=0.2)


@pytest.mark.parametrize(
    "options",
    [{"columns": 3}, {"average": True}, {"margin": 0.4}, {"margin": -2.0, "average": True}],
    ids=["three columns", "average", "margin", "negative margin"],
)
def test_variants(backend, options):
    problem = make_problem((2, 7, 150, 24, 36, 20), device=backend.device, **options)
    assert_agrees(problem, backend.name)
    categories = problem.run(backend.name)[0][:, 7:]
    assert set(categories.unique().tolist()) == set(problem.columns.tolist())


@pytest.mark.parametrize("ties", [False, True])
def test_ranks(backend, ties):
    of_rank = torch.full((150,), Category.S, dtype=torch.uint8, device=backend.device)
    of_rank[:40], of_rank[40:60] = Category.T, Category.A
    problem = make_problem((2, 7, 150, 24, 36, 20), device=backend.device, category_of_rank=of_rank)
    if ties:  # all tokens alike, but for two that lead
        projected = problem.projected[:, :1].repeat(1, 150, 1)
        lead = problem.run("reference")[1][0].diff(dim=-1)
        projected[0, 77] = projected[0, 149] = problem.projected[0, lead.argmax()]
        problem = replace(problem, projected=projected)
    categories, logits = problem.run(backend.name)
    assert torch.equal(categories[:, 7:], kernels.decide(logits, problem.columns, category_of_rank=of_rank))
    if ties:
        assert (categories[0, 7:] == Category.T).nonzero().flatten().tolist() == [*range(38), 77, 149]


def test_any_strides(backend):
    problem = make_problem((2, 5, 33, 40, 33, 17), device=backend.device)
    expected = problem.run(backend.name)
    wide = torch.full((2, 38, 61), torch.nan, device=backend.device)
    wide[:, 5:, 28:] = problem.projected
    tokens = torch.full((2, 38, 40), torch.nan, device=backend.device)
    tokens[:, :5] = problem.template
    first = torch.full((33, 80), torch.nan, device=backend.device)
    first[:, 40:] = problem.weights.first
    weights = problem.weights._replace(first=first[:, 40:], second=problem.weights.second.t().contiguous().t())
    spread = replace(problem, projected=wide[:, 5:, 28:], template=tokens[:, :5], weights=weights)
    for actual, result in zip(spread.run(backend.name), expected, strict=True):
        assert torch.equal(actual, result)


def test_every_image_for_itself_and_any_number_of_threads(backend):
    problem = make_problem((3, 5, 70, 40, 64, 32), device=backend.device)
    expected = problem.run(backend.name)
    alone = [
        replace(problem, projected=problem.projected[i : i + 1], template=problem.template[i : i + 1]).run(backend.name)
        for i in range(3)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = problem.run(backend.name)
    torch.set_num_threads(threads)
    for i in range(2):
        assert torch.equal(torch.cat([results[i] for results in alone]), expected[i])
        assert torch.equal(again[i], expected[i])


def test_largest_pooled_value_is_nan_if_one_is(backend):
    problem = make_problem((1, 5, 9, 16, 16, 16), device=backend.device)
    for token in (0, 2, 4):
        problem.template[0, :, 3] = 1.0
        problem.template[0, token, 3] = torch.nan
        categories, logits = problem.run(backend.name)
        assert logits.isnan().all()
        assert (categories[:, 5:] == Category.S).all()


@pytest.mark.parametrize("wanted", ["projected", "template", "first"])
def test_a_gradient_of_anything_is_the_references(backend, wanted):
    """Backwards and forwards; who asks for a compiled form is told that it has none."""
    problem = make_problem((1, 5, 9, 16, 16, 16), device=backend.device)

    def logits(x, name=None):
        given = {"weights": problem.weights._replace(first=x)} if wanted == "first" else {wanted: x}
        return replace(problem, **given).run(name)[1]

    x = problem.weights.first if wanted == "first" else getattr(problem, wanted)
    expected = torch.autograd.functional.jacobian(lambda x: logits(x, "reference").sum(), x)
    assert expected.abs().max() > 0
    leaf = x.clone().requires_grad_()
    logits(leaf).sum().backward()
    assert torch.equal(leaf.grad, expected)
    tangent = torch.randn_like(x)
    _, derivative = torch.func.jvp(lambda x: logits(x).sum(), (x,), (tangent,))
    assert derivative.item() == pytest.approx((expected * tangent).sum().item(), rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match="has no gradient"):
        logits(leaf, backend.name)


def test_operators(backend):
    for options in ({}, {"category_of_rank": torch.zeros(33, dtype=torch.uint8, device=backend.device)}):
        p = make_problem((2, 5, 33, 40, 33, 17), device=backend.device)
        operator = getattr(torch.ops.grm_kernels, f"{backend.name}_divide").default
        arguments = (p.projected, p.template, *p.weights, p.columns, options.get("category_of_rank"), False, 0.5)
        torch.library.opcheck(operator, arguments)


def test_one_operator_is_called_and_compiles(backend):
    problem = make_problem((2, 5, 33, 40, 33, 17), device=backend.device, margin=0.25)
    with CalledOperators() as called:
        expected = problem.run(backend.name)
    assert [name for name in called.names if "expand" not in name and "slice" not in name] == [
        f"grm_kernels.{backend.name}_divide.default"
    ]
    torch.compiler.reset()
    compiled = torch.compile(problem.run, fullgraph=True, backend="aot_eager")
    for actual, result in zip(compiled(backend.name), expected, strict=True):
        assert torch.equal(actual, result)


def test_where_a_gradient_is_wanted_pytorch_serves():
    problem = make_problem((2, 5, 33, 40, 33, 17))
    projected = problem.projected.clone().requires_grad_()
    wanted = replace(problem, projected=projected)
    categories, logits = wanted.run(None)
    (grad,) = torch.autograd.grad(logits.square().sum(), projected)
    hidden = projected + F.linear(problem.template.amax(1), problem.weights.first, problem.weights.first_bias)[:, None]
    hidden = F.gelu(F.linear(F.gelu(hidden), problem.weights.second, problem.weights.second_bias))
    expected = F.linear(hidden, problem.weights.third, problem.weights.third_bias)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.square().sum(), projected)[0])
    assert torch.equal(categories, problem.run("cpu")[0])
    with pytest.raises(ValueError, match="backend: 'cpu' cannot serve: has no gradient"):
        wanted.run("cpu")
    with torch.no_grad():
        assert torch.equal(wanted.run("cpu")[0], categories)
    assert problem.to(torch.float64).run(None)[1].dtype == torch.float64


def test_no_search_tokens_and_no_images(backend):
    for shape in ((2, 5, 0, 16, 16, 16), (0, 5, 8, 16, 16, 16)):
        categories, logits = make_problem(shape, device=backend.device).run(backend.name)
        assert categories.shape == (shape[0], 5 + shape[2]) and logits.shape == (shape[0], shape[2], 2)
        assert (categories == Category.T).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projected": torch.zeros(3, 4)}, r"expected projected \(B, N, H1\), .* got \(3, 4\), \(2, 5, 40\), \(2,\)"),
        ({"template": torch.zeros(2, 0, 40)}, r"template \(B, N of 1 or more, C\), .* \(2, 0, 40\)"),
        ({"template": torch.zeros(1, 5, 40)}, r"template: expected shape \(2, 5, 40\), got \(1, 5, 40\)"),
        ({"template": torch.zeros(2, 5, 41)}, r"weights.first: expected shape \(33, 41\), got \(33, 40\)"),
        ({"template": torch.zeros(2, 5, 40).half()}, "template: expected torch.float32 on cpu as of projected"),
        ({"columns": torch.tensor([1, 2])}, r"columns: expected \(2,\) of torch.uint8, got \(2,\) of torch.int64"),
        ({"columns": COLUMNS[3]}, r"weights.third: expected shape \(3, 17\), got \(2, 17\)"),
        (
            {"options": {"category_of_rank": torch.zeros(32, dtype=torch.uint8)}},
            r"category_of_rank: expected \(33,\) of torch.uint8, got \(32,\)",
        ),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make_problem((2, 5, 33, 40, 33, 17)), **change).run(None)


def test_backends_that_cannot_serve_say_why():
    problem = make_problem((2, 5, 33, 40, 33, 17))
    with pytest.raises(ValueError, match="backend: 'metal' cannot serve: expected one of cpu, triton, reference"):
        problem.run("metal")
    with pytest.raises(ValueError, match="backend: 'cpu' cannot serve: needs float32, bfloat16 or float16, got"):
        problem.to(torch.float64).run("cpu")
