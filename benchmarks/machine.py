"""What the machine is, and how fast it multiplies and copies: the scale that times are put on."""

import platform
import time
from collections.abc import Callable

import torch

from benchmarks.record import source_hash


def best_seconds(function: Callable[[], object], repeats: int) -> float:
    """Shortest of `repeats` calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def matrix_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """FLOP/s of torch.mm on square matrices."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: torch.mm(a, b), 20)


def memory_rate(mebibytes: int = 512) -> float:
    """Bytes per second read and written by a copy that no cache holds."""
    source = torch.ones(mebibytes * 2**18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), 5)


def describe_host() -> dict[str, object]:
    """Processor, threads and versions; asks nothing of the kernels."""
    try:
        import cpuinfo

        processor = cpuinfo.get_cpu_info()["brand_raw"]
    except (ImportError, KeyError):
        processor = platform.processor()
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def describe() -> dict[str, object]:
    """Processor, threads, versions, instruction set and the hash of the sources of the CPU kernels."""
    from grm_kernels import __version__, cpu

    return {
        **describe_host(),
        "grm_kernels": __version__,
        "instruction_set": cpu.instruction_set(),
        "sources": source_hash(),
    }
