"""The same workloads under pytest-benchmark: ``pytest benchmarks --benchmark-group-by=group``."""

import pytest
import torch

from benchmarks.compare import compare_results
from benchmarks.workload import IMPLEMENTATIONS, PASSES, Workload, make_inputs, step

WORKLOADS = [
    Workload(batch, share_s=share, dtype=dtype, run=run)
    for dtype in (torch.float32, torch.bfloat16)
    for run in PASSES
    for batch in (1, 8)
    for share in (0.0, 0.5, 1.0)
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: i.name)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: f"{w.dtype}-{w.run}-B{w.batch}-S{w.share_s}")
def test_attention(benchmark, workload, implementation):
    """One implementation on one workload; grouped by workload."""
    if workload.run not in implementation.runs:
        pytest.skip(f"{implementation.name} has no {workload.run}")
    inputs = make_inputs(workload)
    if implementation.exact:
        compare_results(implementation.name, step(implementation, inputs), inputs)
    benchmark.group = str(workload)
    benchmark.pedantic(step, (implementation, inputs), warmup_rounds=1, rounds=8)
