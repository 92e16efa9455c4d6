"""Bad input: every message names the argument, what came and what was expected."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grm_kernels import CategoryAttention, category_attention, category_attention_packed, cpu, dispatch, explain
from tests.grm_kernels.problems import make_problem

GOOD = make_problem(2, 2, 6, 16)


def call(problem=GOOD, **others):
    return category_attention(
        problem.q, problem.k, problem.v, problem.categories, problem.policy, **{"soft": problem.soft, **others}
    )


def with_category(value):
    categories = GOOD.categories.clone()
    categories[1, 2] = value
    return replace(GOOD, categories=categories, policy=None)


def with_disagreement():
    policy = GOOD.policy.clone()
    policy[1, 4] = policy[1, 4].roll(1)
    return replace(GOOD, policy=policy)


# What is wrong, the error, what its message says.
BAD_INPUT = {
    "q not a tensor": (replace(GOOD, q=[1.0]), TypeError, "q: expected a tensor, got list"),
    "k of None": (replace(GOOD, k=None), TypeError, "k: expected a tensor, got NoneType"),
    "q of three dimensions": (replace(GOOD, q=GOOD.q[0]), ValueError, r"q: expected 4 dimensions \(B, H, N, D\), got"),
    "integers": (replace(GOOD, q=GOOD.q.int()), TypeError, "q: expected float32, .* got torch.int32"),
    "float8": (
        replace(GOOD, q=GOOD.q.to(torch.float8_e4m3fn)),
        TypeError,
        "q: expected float32, float16, bfloat16 or float64, got torch.float8_e4m3fn",
    ),
    "k of another length": (
        replace(GOOD, k=GOOD.k[:, :, :5]),
        ValueError,
        r"k: expected the shape of q .* got \(2, 2, 5, 16\) \(.* there is no cross attention",
    ),
    "v of another dtype": (replace(GOOD, v=GOOD.v.half()), TypeError, "v: expected the dtype of q torch.float32, got"),
    "v on another device": (
        replace(GOOD, v=GOOD.v.to("meta")),
        ValueError,
        "v: expected the device of q cpu, got meta",
    ),
    "transposed channels": (
        replace(GOOD, k=GOOD.k.transpose(2, 3).contiguous().transpose(2, 3)),
        ValueError,
        r"k: expected the last stride to be 1, got strides \(192, 96, 1, 6\)",
    ),
    "no tokens": (
        replace(GOOD, q=GOOD.q[:, :, :0], k=GOOD.k[:, :, :0], v=GOOD.v[:, :, :0]),
        ValueError,
        "q: expected N and D of at least 1",
    ),
    "no categories": (replace(GOOD, categories=None), TypeError, "categories: expected a tensor, got None"),
    "categories of float32": (
        replace(GOOD, categories=GOOD.categories.float()),
        TypeError,
        "categories: expected uint8, bool or another integer, got torch.float32",
    ),
    "categories too short": (
        replace(GOOD, categories=GOOD.categories[:, :5]),
        ValueError,
        r"categories: expected shape \(2, 6\), \(1, 6\), \(6,\) or by head \(2, 2, 6\) for q of shape "
        r"\(2, 2, 6, 16\), got \(2, 5\)",
    ),
    "categories elsewhere": (
        replace(GOOD, categories=GOOD.categories.to("meta")),
        ValueError,
        "categories: expected the device of q cpu, got meta",
    ),
    "a category of 4": (
        with_category(4),
        ValueError,
        r"categories: expected values 0 \(T\), 1 \(S\), 2 \(A\) and 3 \(padding\), got 4",
    ),
    "a category of -1": (
        replace(GOOD, categories=GOOD.categories.long() - 1, policy=None),
        ValueError,
        r"categories: expected values 0 .*, got -1",
    ),
    "categories by head of other heads": (
        replace(GOOD, categories=GOOD.categories.unsqueeze(1).expand(2, 3, 6), policy=None),
        ValueError,
        r"categories: expected shape \(2, 2, 6\) for q of shape \(2, 2, 6, 16\), got \(2, 3, 6\)",
    ),
    "categories by head and a policy of all heads": (
        replace(GOOD, categories=GOOD.categories.unsqueeze(1).expand(2, 2, 6)),
        ValueError,
        r"policy: expected shape \(2, 2, 6, 3\)",
    ),
    "k and v of heads that do not divide q's": (
        replace(make_problem(2, 3, 6, 16), k=GOOD.k, v=GOOD.v),
        ValueError,
        r"k: expected the shape of q \(2, 3, 6, 16\), or a divisor of its heads, got \(2, 2, 6, 16\)",
    ),
    "v of other heads than k": (
        replace(GOOD, k=GOOD.k[:, :1]),
        ValueError,
        r"v: expected the shape of k \(2, 1, 6, 16\), got \(2, 2, 6, 16\)",
    ),
    "policy of two columns": (
        replace(GOOD, policy=GOOD.policy[..., :2]),
        ValueError,
        r"policy: expected shape \(2, 6, 3\)",
    ),
    "policy of integers": (
        replace(GOOD, policy=GOOD.policy.long()),
        TypeError,
        "policy: expected float32, .* got torch.int64",
    ),
    "policy that disagrees": (
        with_disagreement(),
        ValueError,
        r"policy: expected its arg-max to be the category of every token, but at \[1, 4\] it is \[",
    ),
    "no channels": (
        replace(GOOD, q=GOOD.q[..., :0], k=GOOD.k[..., :0], v=GOOD.v[..., :0]),
        ValueError,
        "q: expected N and D of at least 1",
    ),
    "soft without policy": (
        replace(GOOD, policy=None, soft=True),
        TypeError,
        "policy: expected a tensor with soft=True",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(case):
    problem, error, message = case
    with pytest.raises(error, match=message):
        call(problem)


def test_good_input_passes():
    call()


def test_values_of_a_parameter_are_checked():
    categories = torch.nn.Parameter(torch.full((2, 6), 9, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="categories: expected values"):
        call(replace(GOOD, categories=categories, policy=None))


def test_backend_that_is_no_name():
    with pytest.raises(TypeError, match="backend: expected a name or None, got list"):
        call(backend=["cpu"])


def test_operator_called_directly_keeps_memory_safe(backend):
    """Nothing has checked these: the kernel itself refuses what it would read beyond."""
    from grm_kernels import ops

    if backend.name != "cpu":
        pytest.skip("the compiled kernels only")
    q, k, v, categories = GOOD.q, GOOD.k, GOOD.v, GOOD.categories
    for arguments, message in (
        ((q, k[:, :, :5], v, categories, None, 1.0), "k has a shape"),
        ((q, k.half(), v, categories, None, 1.0), "k has a dtype"),
        ((q, k, v, categories[:1], None, 1.0), "categories has a shape"),
        ((q, k, v, categories.long(), None, 1.0), "categories has a dtype"),
        ((q, k, v, None, GOOD.policy.double(), 1.0), "soft_policy has a dtype"),
        ((q, k, v, None, None, 1.0), "expected categories or soft_policy"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.forward("cpu")(*arguments)


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"backend: expected None or one of .*'cpu'.*, got 'gpu'"):
        call(backend="gpu")


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (make_problem(1, 1, 4, 257), "needs D to be at most 256, got 257"),
        (GOOD.to(torch.float64), "needs float32, bfloat16 or float16, got torch.float64"),
    ],
    ids=["D=257", "float64"],
)
def test_backend_that_cannot_serve(problem, reason):
    with pytest.raises(ValueError, match=f"backend: 'cpu' cannot serve .*{re.escape(reason)}"):
        call(problem, backend="cpu")
    assert reason in explain(problem.q)["cpu"]
    # The automatic choice falls through to the next that can, and says so once.
    dispatch._warn_of_the_reference.cache_clear()
    with pytest.warns(UserWarning, match=f"served by the slow reference.*'cpu' {re.escape(reason)}") as caught:
        result = call(problem)
        call(problem)
    assert len(caught) == 1 and caught[0].filename == __file__
    torch.testing.assert_close(result, call(problem, backend="reference"))


def test_a_warning_names_the_callers_line_in_every_form():
    problem = make_problem(1, 2, 5, 257, policy=False)
    by_head = problem.categories.unsqueeze(1).expand(1, 2, 5)
    module = CategoryAttention(514, 2)
    for attend in (
        lambda: category_attention(problem.q, problem.k, problem.v, by_head),
        lambda: category_attention_packed(torch.zeros(1, 5, 3, 2, 257), problem.categories),
    ):
        dispatch._warn_of_the_reference.cache_clear()
        with pytest.warns(UserWarning, match="slow reference") as caught:
            attend()
        assert caught[0].filename == __file__
    dispatch._warn_of_the_reference.cache_clear()
    with pytest.warns(UserWarning, match="slow reference") as caught:
        module(torch.zeros(1, 5, 514), problem.categories)
    assert "grm_kernels" not in Path(caught[0].filename).parts[-2:]


def test_the_reference_that_was_asked_for_is_no_surprise():
    dispatch._warn_of_the_reference.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(GOOD.to(torch.float64), backend="reference")


def test_all_reasons_are_listed():
    reasons = explain(torch.empty(1, 1, 1, 300, dtype=torch.float64, device="meta"))["cpu"]
    assert len(reasons) == 3


def test_a_cuda_backend_needs_a_gpu():
    with pytest.raises(ValueError, match=r"backend: 'cuda' cannot serve"):
        call(backend="cuda")


@pytest.mark.parametrize(("name", "accepted"), [("portable", True), ("mmx", False)])
def test_instruction_set_by_environment_variable(name, accepted):
    result = subprocess.run(
        [sys.executable, "-c", "from grm_kernels import cpu; print(cpu.instruction_set())"],
        env={**os.environ, cpu.ENVIRONMENT_VARIABLE: name},
        capture_output=True,
        text=True,
    )
    if accepted:
        assert result.stdout.strip() == name
    else:
        assert f"environment variable {cpu.ENVIRONMENT_VARIABLE}: instruction set: expected one of" in result.stderr


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match=r"instruction set: expected one of .*, got 'mmx'"):
        cpu.set_instruction_set("mmx")


def test_bad_category_is_memory_safe_and_counts_as_a(backend):
    """Where values are not checked (inside a compiled graph, on a GPU) a bad one is served as A."""
    from grm_kernels import ops

    bad, good = with_category(200), with_category(2)
    outputs = [
        ops.forward(backend.name)(*(x.to(backend.device) for x in (p.q, p.k, p.v, p.categories)), None, 0.25)[0]
        for p in (bad, good)
    ]
    assert torch.equal(*outputs)


def test_what_bad_input_cannot_be():
    """Forms that would be refused are not offered, and none twice."""
    by_head = torch.ones(2, 2, 6, dtype=torch.bool)
    message = "valid: expected shape (2, 6), (1, 6) or (6,) for q of shape (2, 2, 6, 16), got (2, 2, 6)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(valid=by_head)
    one = make_problem(1, 2, 6, 16)
    with pytest.raises(ValueError, match=r"valid: expected shape \(1, 6\) or \(6,\) for q"):
        call(one, valid=by_head[:1])
    with pytest.raises(ValueError, match=r"scale: expected a finite number of float32 or None, got 1e\+39"):
        call(scale=1e39)
