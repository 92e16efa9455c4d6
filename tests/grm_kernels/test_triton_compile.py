"""The Triton kernels, compiled for GPUs that are not here: spills, memory, matrix instructions, programs resident."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from grm_kernels.triton import config
from tests.conftest import version

THERE = importlib.util.find_spec("triton") is not None
pytestmark = pytest.mark.skipif(not THERE, reason="Triton is not installed")

CAPABILITIES = [(8, 0), (9, 0), (10, 0), (12, 0)]
# Some kernels have up to 25 spills with these releases, at 255 registers: there are no more to give.
RELEASE = version("triton") if THERE else None
SPILLING = {(3, 6): [(8, 0), (12, 0)], (3, 9): [(10, 0)]}.get(RELEASE, [])
by_capability = pytest.mark.parametrize(
    "capability",
    [
        pytest.param(one, marks=pytest.mark.xfail(one in SPILLING, reason=f"spills with Triton {RELEASE}", strict=True))
        for one in CAPABILITIES
    ],
    ids=str,
)
# KiB of shared memory that a program may use, and that a multiprocessor has; a program costs 1 KiB besides its own.
SHARED_LIMIT = {(8, 0): 163, (9, 0): 227, (10, 0): 227, (12, 0): 99}
SHARED_TOTAL = {capability: limit + 1 for capability, limit in SHARED_LIMIT.items()}
REGISTERS, TENSOR_COLUMNS = 65536, 512  # of a multiprocessor; the columns of 10.0 only

MANY = 32  # images: too many programs for each to sort for itself

# What the tracker uses: D = 64 in 16 bits, categories, with the policy's gradient and without.
USED = [
    {"pass_": "forward", "d": 64, "dtype": "bfloat16"},
    {"pass_": "forward", "d": 64, "dtype": "bfloat16", "b": MANY},
    {"pass_": "backward", "d": 64, "dtype": "bfloat16", "policy": True},
    {"pass_": "backward", "d": 64, "dtype": "bfloat16", "policy": False},
    {"pass_": "forward", "d": 64, "dtype": "float32", "tf32": True},
    *({"pass_": "frame", "d": 64, "dtype": dtype, "tf32": dtype == "float32"} for dtype in ("bfloat16", "float32")),
]
# Every row of the table, with D that is no power of two among them, and the soft policy.
ALL = [
    {"pass_": pass_, "d": d, "dtype": dtype, "tf32": tf32, "soft": soft, "policy": policy}
    for dtype, tf32 in (("bfloat16", False), ("float32", True), ("float32", False))
    for d in (64, 112, 128)
    for soft in (False, True)
    for pass_, policy in (("forward", False), ("backward", True), ("backward", False))
]


def compile_cases(capability, cases) -> list[dict]:
    """Every case with the report of its main kernel and those of the small ones, from a process without interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cases = [{"capability": capability, "n": 320, **case} for case in cases]
    process = subprocess.run(
        [sys.executable, "-m", "tests.grm_kernels.compile_ahead"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    reports = [json.loads(line) for line in process.stdout.splitlines()]
    return [{**case, "kernels": kernels} for case, kernels in zip(cases, reports, strict=True)]


@pytest.fixture(scope="module")
def compiled():
    """By capability: what the tracker uses, compiled in two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {capability: pool.submit(compile_cases, capability, USED) for capability in CAPABILITIES}


@by_capability
def test_kernels_that_the_tracker_uses(compiled, capability):
    for case in compiled[capability].result():
        check(case)


@pytest.mark.slow
@by_capability
def test_every_configuration(capability):
    for case in compile_cases(capability, ALL):
        check(case)


def check(case: dict) -> None:
    capability = tuple(case["capability"])
    for kernel in case["kernels"]:
        where = f"{case | {'kernels': None}}: {kernel}"
        assert kernel["spills"] == kernel["stack"] == kernel["local"] == 0, where
        assert kernel["shared"] <= 1024 * SHARED_LIMIT[capability], where
    if case["pass_"] == "frame":
        layer = ["pool_kernel", "divide_kernel", "rank_kernel", "add_layer_norm_kernel"]
        assert [kernel["kernel"] for kernel in case["kernels"]] == [*layer, "bias_relu_kernel", "centre_kernel"]
        assert case["kernels"][1]["scalar_products"] == 0
        return
    kind = "half" if case["dtype"] == "bfloat16" else "tf32" if case.get("tf32") else "ieee"
    tiles = config.configuration(case["pass_"], kind, capability, case["d"])
    expected = {"forward": ["order_kernel", "forward_kernel"], "backward": ["prologue_kernel", "backward_kernel"]}
    names = expected[case["pass_"]] + (["policy_kernel"] if case["pass_"] == "backward" and case.get("policy") else [])
    if case["pass_"] == "forward" and (case.get("soft") or (kind == "half" and case.get("b") != MANY)):
        names.remove("order_kernel")  # or every program sorts for itself
    assert [kernel["kernel"] for kernel in case["kernels"]] == names

    kernel = next(kernel for kernel in case["kernels"] if kernel["kernel"] == f"{case['pass_']}_kernel")
    where = f"{case | {'kernels': None}}: {kernel}"
    registers = -(-kernel["registers"] // 8) * 8 * 32 * kernel["warps"]
    assert tiles.resident * registers <= REGISTERS, where
    assert tiles.resident * (kernel["shared"] + 1024) <= 1024 * SHARED_TOTAL[capability], where
    assert tiles.resident * kernel["tensor_columns"] <= TENSOR_COLUMNS, where
    if kind != "ieee":
        assert kernel["scalar_products"] == 0, where
        assert kernel["multiplications"] >= multiplications(case, tiles), where


def multiplications(case: dict, tiles: config.Tiles) -> int:
    """How many the products of a kernel take, every loop of it run once."""
    bd = 1 << (case["d"] - 1).bit_length()
    product = tiles.block * tiles.tile * bd  # all products are of one size
    if case["pass_"] == "forward":
        return 2 * product * (1 if case.get("soft") else 3)
    all_products, scores_only = 4 + 3, 2 + 2  # of a program that owns keys, and of one that owns queries
    if case.get("soft"):
        return all_products * product
    return (all_products + 2 * scores_only if case["policy"] else 3 * all_products) * product
