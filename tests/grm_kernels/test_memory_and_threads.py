"""What a call costs in memory, and that the number of threads does not change a bit of the result."""

import subprocess
import sys

import pytest
import torch

from grm_kernels import cpu, extension
from tests.grm_kernels.problems import make_problem, solve

# Peak resident memory of one forward and backward pass with the policy's gradient over what the process had before.
MEASURE = """
import re, sys, torch
from grm_kernels import category_attention
torch.set_num_threads(2)
n, backend = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
def step(n):
    q, k, v = (torch.randn(1, 2, n, 16, requires_grad=True) for _ in range(3))
    categories = torch.randint(0, 3, (1, n), dtype=torch.uint8)
    policy = torch.nn.functional.one_hot(categories.long(), 3).float().requires_grad_()
    category_attention(q, k, v, categories, policy, backend=backend).sum().backward()
def peak():
    # Not getrusage: its peak is inherited from the parent process.
    return int(re.search("VmHWM:.* (.*) kB", open("/proc/self/status").read())[1])
step(64)
before = peak()
step(n)
print(peak() - before)
"""


def peak_growth(n: int, backend: str) -> float:
    """MiB."""
    command = [sys.executable, "-c", MEASURE, str(n), backend]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_with_n_not_its_square():
    """A single N x N matrix of float32 is 256 MiB at N = 8192; the call itself needs a few MiB at any of these N."""
    n = 8192
    matrix = n * n * 4 / 2**20
    small, large = peak_growth(n // 4, "cpu"), peak_growth(n, "cpu")
    # Linear growth: q, k, v, out, their gradients and the packed copies of every thread, about 40 rows of 16 per token.
    linear = 40 * n * 2 * 16 * 4 / 2**20
    assert large < linear < matrix / 3, f"{large:.0f} MiB at N = {n}, {small:.0f} MiB at N = {n // 4}"
    assert large - small < linear
    # The measurement sees such a matrix where there is one.
    assert peak_growth(n // 4, "reference") > 2 * matrix / 16


@pytest.mark.skipif(not cpu.instruction_sets(), reason=str(extension.unavailable))
@pytest.mark.parametrize("heads", [1, 5], ids=["blocks", "heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_the_result(heads, dtype):
    """With one head the threads share its query blocks, with several the heads."""
    problem = make_problem(1, heads, 150, 32, dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(solve(problem, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for name, expected in results[0].items():
            assert torch.equal(result[name], expected), name
