"""What is particular to the Triton backend; that its results are right is tested with the others in test_kernels.py."""

import os
import subprocess
import sys

import pytest
import torch

from grm_kernels import category_attention, category_order, explain
from grm_kernels.triton import config
from tests.conftest import TRITON as BACKEND
from tests.conftest import WHY_NO_TRITON
from tests.grm_kernels.problems import MIXED, NO_A, PADDED, assert_agrees, make_categories, make_problem, solve

pytestmark = pytest.mark.skipif(WHY_NO_TRITON is not None, reason=str(WHY_NO_TRITON))


def run(code: str, **kwargs) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, **kwargs).stdout


@pytest.mark.parametrize("n", [1, 31, 320, 1500], ids=lambda n: f"N={n}")
def test_order(n):
    """1500 tokens take several steps of the counting sort; a column of a wider tensor has strides of its own."""
    from grm_kernels.triton import order

    torch.manual_seed(n)
    categories = make_categories(3, 2 * n, PADDED, BACKEND.device)[:, ::2]
    categories[1] = 1
    categories[2, n // 2] = 200  # counts as A
    expected, counts = category_order(categories)
    result, bounds = order.sort(categories)
    assert torch.equal(result.long(), expected)
    assert torch.equal(bounds.long(), counts.cumsum(1))


@pytest.mark.parametrize("shares", [MIXED, PADDED], ids=["mixed", "padding"])
def test_every_program_sorts_for_itself_or_one_kernel_for_all(shares, monkeypatch):
    """Bits of out and lse; categories that are a column of a wider tensor."""
    from grm_kernels.triton import forward, order

    problem = make_problem(2, 3, 150, 32, torch.float16, shares=shares, device=BACKEND.device)
    categories = torch.stack([problem.categories] * 2, dim=2)[:, :, 1]
    arguments = (problem.q, problem.k, problem.v, categories, None, 0.2)
    sort, sorted_before = order.sort, []
    monkeypatch.setattr(order, "sort", lambda categories: sorted_before.append(True) or sort(categories))
    expected = forward.forward(*arguments)
    assert not sorted_before
    monkeypatch.setattr(forward, "_SORTING_PROGRAMS", 17)  # of 2 x 3 x 3
    for actual, result in zip(forward.forward(*arguments), expected, strict=True):
        assert torch.equal(actual, result)
    assert sorted_before


# N on, before and behind the edge of a tile; D that is and is no power of two.
@pytest.mark.parametrize(
    ("n", "d", "shares", "options"),
    [
        (64, 16, MIXED, {"packed": True}),
        (65, 48, NO_A, {}),
        (127, 80, MIXED, {"policy": False}),
        (128, 128, NO_A, {"policy": False}),
        (193, 112, (0.45, 0.1, 0.45), {}),
        (200, 32, (0.7, 0.1, 0.2), {"policy": False}),
        (129, 96, MIXED, {"soft": True}),
    ],
)
def test_edges_of_tiles(n, d, shares, options):
    problem = make_problem(2, 1, n, d, torch.float16, shares=shares, device=BACKEND.device, seed=n, **options)
    assert_agrees(problem, "triton")


def test_search_tokens_in_t():
    """Blocks of queries in which T and S meet, and A lies across a tile."""
    problem = make_problem(1, 1, 150, 32, policy=True, device=BACKEND.device)
    problem.categories[:] = torch.tensor([0] * 50 + [1] * 90 + [2] * 10, dtype=torch.uint8)[torch.randperm(150)]
    problem.policy.copy_(torch.nn.functional.one_hot(problem.categories.long(), 3))
    assert_agrees(problem, "triton")


def test_blocked_tiles_are_not_read():
    """NaN in the keys and values of T does not reach S, not even as 0 * NaN: whole tiles of T are skipped."""
    categories = torch.tensor([0] * 64 + [1] * 128, dtype=torch.uint8, device=BACKEND.device)
    problem = make_problem(1, 1, 192, 16, policy=False, device=BACKEND.device)
    problem.categories[:] = categories[torch.randperm(192)]
    template, search = problem.categories[0] == 0, problem.categories[0] == 1
    for tensor in (problem.k, problem.v):
        tensor[:, :, template] = float("nan")
    result = solve(problem, "triton")
    for name in ("out", "lse", "grad_q", "grad_k", "grad_v"):
        assert result[name][:, :, search].isfinite().all(), name
    assert result["out"][:, :, template].isnan().all()


def test_the_interpreter_is_never_chosen():
    """On the CPU it serves only when it is named."""
    q = torch.empty(1, 1, 4, 16)
    names = list(explain(q))
    assert names.index("triton") > names.index("reference")
    assert explain(q)["reference"] == []


def test_triton_is_imported_with_the_first_call_only():
    assert run("import sys, grm_kernels; print('triton' in sys.modules)").strip() == "False"


def test_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch, grm_kernels
print(grm_kernels.explain(torch.empty(1, 1, 4, 16))["triton"][0])
"""
    assert run(code).strip() == "Triton is not installed"


@pytest.mark.parametrize("d", [8, 24, 144])
def test_channels_that_cannot_be_served(d):
    q = torch.empty(1, 1, 4, d, device=BACKEND.device)
    with pytest.raises(ValueError, match=f"'triton' cannot serve .*needs D to be a multiple of 16 .*, got {d}"):
        category_attention(q, q, q, torch.zeros(1, 4, dtype=torch.uint8, device=BACKEND.device), backend="triton")


def test_every_problem_has_a_configuration():
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)):
        for pass_ in ("forward", "backward"):
            for kind in ("half", "tf32", "ieee"):
                for d in range(16, 129, 16):
                    tiles = config.configuration(pass_, kind, capability, d)
                    assert 320 % tiles.block == 320 % tiles.tile == 0, tiles


def test_float32_products_follow_torch(monkeypatch):
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for setting, kind in (("ieee", "ieee"), ("tf32", "tf32")):
            torch.backends.cuda.matmul.fp32_precision = setting
            assert config.kind_of(torch.float32) == kind
            assert config.kind_of(torch.bfloat16) == config.kind_of(torch.float16) == "half"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_another_batch_compiles_nothing():
    """Triton compiles a kernel for each 1, multiple of 16 and other value of an integer, unless told not to."""
    code = """
from grm_kernels.triton.backward import prologue_kernel
print([parameter.name for parameter in prologue_kernel.params if parameter.do_not_specialize])
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    assert run(code, env=environment).strip() == "['B']"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph():
    """Forward and backward are captured, and the graph serves other categories than those that it was captured with."""
    problem = make_problem(2, 3, 100, 64, torch.bfloat16, device="cuda")
    solve(problem, "triton")  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = solve(problem, "triton")
    problem.categories.copy_(make_categories(2, 100, NO_A, "cuda"))
    graph.replay()
    for name, expected in solve(problem, "triton").items():
        assert torch.equal(captured[name], expected), name
