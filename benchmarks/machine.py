"""What the machine is, and how fast it multiplies and copies: the scale that times are put on."""

import hashlib
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from grm_kernels import __version__, cpu

ROOT = Path(__file__).resolve().parent.parent


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


#: What decides how fast the CPU backend is.
CPU_SOURCES = ("csrc/*.*", "csrc/cpu/*", "grm_kernels/*.py", "setup.py")
#: And the GPU backends.
GPU_SOURCES = ("csrc/*.*", "csrc/cuda/*", "grm_kernels/*.py", "grm_kernels/triton/*.py", "setup.py")


def source_hash(patterns: tuple[str, ...] = CPU_SOURCES) -> str:
    """Of the files that the patterns match; a record with another hash is of other kernels."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Of one file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def describe() -> dict[str, object]:
    """Processor, threads, versions, instruction set and the hash of the sources."""
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
        "grm_kernels": __version__,
        "instruction_set": cpu.instruction_set(),
        "sources": source_hash(),
    }
