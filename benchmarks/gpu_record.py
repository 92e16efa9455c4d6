"""Builds, tests and times everything on a machine with a GPU: ``python -m benchmarks.gpu_record``.

Writes one JSON record with the device, versions, a hash of the kernel sources, the outcome of every check, times and
rates. It is written again after every step, so that a run that is cut off leaves what it had. ``--dry`` walks the same
path on a CPU with tiny sizes and Triton's interpreter: it proves the command, not the speed.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.compare import WrongResultError, compare_results
from benchmarks.record import GPU_SOURCES, RESULTS, ROOT, source_hash
from benchmarks.tables import BACKWARD, FORWARD, PASSES, POLICY
from benchmarks.workload import (
    BASELINES,
    Implementation,
    Inputs,
    Workload,
    flex,
    make_inputs,
    ours,
    step,
)
from grm_kernels import explain

#: Bytes of input that calls rotate through, so that none finds its input in the cache (60 MB on an H200).
ROTATION_BYTES = 256 * 2**20

TINY = {"tokens": 80, "heads": 1, "channels": 16}


def workloads(dry: bool) -> Iterator[Workload]:
    """The most telling first: a run that is cut off has those."""
    if dry:
        for run in PASSES:
            yield Workload(1, run=run, **TINY)
        return
    half = [
        Workload(batch, tokens, share, torch.bfloat16, run)
        for tokens in (320, 464)
        for batch in (32, 128, 1, 8)
        for run in PASSES
        for share in (0.5, 0.0, 1.0)
    ]
    yield from half
    yield from (replace(w, dtype=torch.float32) for w in half if w.batch in (1, 32) and w.share_s == 0.5)


def _sdpa(backend: torch.nn.attention.SDPBackend, x: Inputs) -> torch.Tensor:
    with torch.nn.attention.sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(*x.leaves)


def implementations(dry: bool) -> list[Implementation]:
    """Every kernel backend that serves here, the paper's two, and torch's attention in every form that it has."""
    example = torch.empty(1, 1, 64, 64) if dry else torch.empty(1, 1, 64, 64, device="cuda", dtype=torch.bfloat16)
    names = [name for name, reasons in explain(example, needs_grad=True).items() if not reasons and name != "reference"]
    chosen = [Implementation(f"ours, {name}", partial(ours, backend=name)) for name in names]
    chosen += BASELINES
    kinds = torch.nn.attention.SDPBackend
    dense = {"flash": kinds.FLASH_ATTENTION, "cuDNN": kinds.CUDNN_ATTENTION, "efficient": kinds.EFFICIENT_ATTENTION}
    if dry:
        dense = {"math": kinds.MATH}
    chosen += [
        Implementation(f"SDPA, dense, {name}", partial(_sdpa, kind), PASSES, exact=False)
        for name, kind in dense.items()
    ]
    if not dry:
        chosen.append(Implementation("FlexAttention + mask", flex, (FORWARD, BACKWARD), capturable=False))
    return chosen


# ---- timing ----


def seconds_on_cpu(calls: list[Callable[[], object]]) -> float:
    """Shortest of three rounds over the calls, for each call."""
    return machine.best_seconds(lambda: [call() for call in calls], 3) / len(calls)


def _event_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median over repeats of the device time between two events."""
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return sorted(times)[len(times) // 2]


def seconds_on_gpu(calls: list[Callable[[], object]], *, capturable: bool = True) -> float:
    """Median device time of one call.

    The calls, each on its own inputs, are captured in one CUDA graph, which is replayed: no launch gaps. What cannot be
    captured is timed as it runs, gaps included.
    """

    def run() -> None:
        for call in calls:
            call()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    if capturable:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run = graph.replay
    run()
    once = _event_seconds(run, 3)
    return _event_seconds(run, max(5, min(50, int(0.1 / once)))) / len(calls)


# ---- floors ----


def floors(workload: Workload, inputs: Inputs, matrix_rate: float, memory_rate: float) -> dict[str, float]:
    """Seconds that no implementation can beat: bytes over the memory rate, operations over the matrix rate.

    Bytes: every input read and every output written once. Operations: two products forward and five backward over the
    allowed pairs; with the policy's gradient two (scores and dP) over the blocked pairs too.
    """
    w = workload
    n_t, n_s = ((inputs.categories == c).sum(1).double() for c in (0, 1))
    blocked = (2 * n_t * n_s).sum().item() * w.heads
    allowed = w.batch * w.heads * w.tokens**2 - blocked
    products = (2 if w.run == FORWARD else 7) * allowed
    if w.run == POLICY:
        products += 2 * blocked
    return {
        "floor_bytes_s": w.least_bytes / memory_rate,
        "floor_operations_s": 2 * w.channels * products / matrix_rate,
        "operations": 2 * w.channels * products,
        "bytes": w.least_bytes,
    }


# ---- the record ----


class Record:
    """The JSON document, written to disk after every step."""

    def __init__(self, path: Path, dry: bool, budget_s: float) -> None:
        self.path, self.dry, self.deadline = path, dry, time.monotonic() + budget_s
        self.data: dict = {"kind": "gpu", "dry": dry, "date": date.today().isoformat(), "complete": False, "steps": {}}
        self.data |= {"tracker": [], "training": []}
        path.parent.mkdir(parents=True, exist_ok=True)

    def seconds_left(self) -> float:
        """Of the budget."""
        return self.deadline - time.monotonic()

    def step(self, name: str, function: Callable[[], object]) -> None:
        """Runs one step; whatever happens is recorded and the next one follows."""
        begin = time.monotonic()
        try:
            outcome = {"ok": True, "result": function()}
        except Exception as error:
            outcome = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc()[-2000:],
            }
        self.data["steps"][name] = {**outcome, "seconds": round(time.monotonic() - begin, 1)}
        self.save()
        print(f"{name}: {'ok' if outcome['ok'] else outcome['error']} ({time.monotonic() - begin:.0f} s)", flush=True)

    def save(self) -> None:
        """Replaces the file."""
        temporary = self.path.with_suffix(".partial")
        temporary.write_text(json.dumps(self.data, indent=1) + "\n")
        temporary.replace(self.path)


def _run(command: list[str], timeout: float) -> str:
    """Last lines of a command's output.

    Raises:
        RuntimeError: it failed, with its last lines.
    """
    result = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    tail = result.stdout[-3000:]
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}\n{tail}")
    return tail


def build(dry: bool) -> str:
    """Compiles the extension in place; the dry run compiles it into a folder that is thrown away."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    if not dry:
        return _run([*command, "--inplace"], 300)
    with tempfile.TemporaryDirectory() as folder:
        return _run([*command, "--build-lib", folder, "--build-temp", folder], 300)


def describe(dry: bool) -> dict[str, object]:
    """Host, device, versions and the hash of all kernel sources."""
    import triton

    description = {
        **machine.describe(),
        "triton": triton.__version__,
        "sources": source_hash(GPU_SOURCES),
    }
    if not dry:
        p = torch.cuda.get_device_properties(0)
        description |= {
            "device": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "cuda": torch.version.cuda,
        }
    return description


def rates(dry: bool) -> dict[str, float]:
    """What the machine reaches on a large matrix product of random numbers and on a large copy, in this run."""
    if dry:
        return {"torch.float32": machine.matrix_rate(torch.float32, 128), "memory": machine.memory_rate(8)}
    result = {}
    for dtype, size in ((torch.bfloat16, 8192), (torch.float32, 4096)):
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        result[str(dtype)] = 2 * size**3 / seconds_on_gpu([partial(torch.mm, a, b)])
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    result["memory"] = 2 * source.nbytes / seconds_on_gpu([partial(target.copy_, source)])
    return result


def measure(workload: Workload, chosen: list[Implementation], record: Record) -> list[dict]:
    """All implementations of one workload: time, rates and floors, or why there is no time."""
    device = "cpu" if record.dry else "cuda"
    inputs = make_inputs(workload, device)
    copies = 1 if record.dry else min(32, math.ceil(ROTATION_BYTES / (4 * inputs.q.nbytes)))
    rotation = [inputs, *(make_inputs(workload, device, seed) for seed in range(1, copies))]
    machine_rates = record.data["rates"]
    work = floors(workload, inputs, machine_rates[str(workload.dtype)], machine_rates["memory"])
    common = {**asdict(workload), "dtype": str(workload.dtype), "rotated_inputs": copies, **work}
    measurements = []
    for implementation in chosen:
        if workload.run not in implementation.runs:
            continue
        if implementation.call is flex and (workload.batch != 32 or workload.tokens != 320):
            continue  # every shape takes seconds to compile
        try:
            results = step(implementation, inputs)
            if implementation.exact:
                compare_results(implementation.name, results, inputs)
            calls = [partial(step, implementation, x) for x in rotation]
            if record.dry:
                seconds = seconds_on_cpu(calls)
            else:
                seconds = seconds_on_gpu(calls, capturable=implementation.capturable)
            outcome = {
                "seconds": seconds,
                "graph": implementation.capturable and not record.dry,
                "flops": work["operations"] / seconds,
                "bytes_per_second": work["bytes"] / seconds,
                "share_of_floor": max(work["floor_bytes_s"], work["floor_operations_s"]) / seconds,
            }
        except (RuntimeError, ValueError, WrongResultError, NotImplementedError) as error:
            # A ValueError says why a backend cannot serve this workload.
            outcome = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        measurements.append({"implementation": implementation.name, **common, **outcome})
    return measurements


def measure_all(record: Record) -> int:
    """Measures workload after workload until the budget is used up; the number measured."""
    chosen = implementations(record.dry)
    record.data["measurements"] = []
    todo, done = list(workloads(record.dry)), 0
    for workload in todo:
        if record.seconds_left() < 0:
            break
        record.data["measurements"] += measure(workload, chosen, record)
        done += 1
        record.save()
    record.data["complete"] = done == len(todo)
    return done


def parse_conformance(output: str) -> dict[str, list[int]]:
    """Words of all lanes by case, from what csrc/cuda/conformance.cu prints."""
    lines = (line.split() for line in output.splitlines() if line.strip())
    return {name: [int(word, 16) for word in words] for name, *words in lines}


def conformance() -> dict[str, list[int]]:
    """Every primitive of the CUDA kernels on this GPU: the tests of the emulation compare theirs with it."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "conformance")
        _run(["nvcc", "-std=c++17", "-arch=native", "csrc/cuda/conformance.cu", "-o", program], 120)
        result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True)
    return parse_conformance(result.stdout)


#: A small case of each GPU backend, forward and backward: file and selection.
SANITIZED = (
    ("tests/grm_kernels/test_kernels.py", "token_counts and bfloat16-33"),
    ("tests/grm_kernels/test_cuda.py", "token_counts and gpu-33-64"),
)


def sanitize() -> str:
    """compute-sanitizer's memcheck and racecheck over small GPU tests."""
    reports = []
    for file, selection in SANITIZED:
        for tool in ("memcheck", "racecheck"):
            command = [
                "compute-sanitizer",
                "--tool",
                tool,
                "--error-exitcode",
                "9",
                sys.executable,
                "-m",
                "pytest",
                "-q",
            ]
            reports.append(_run([*command, "-x", "-m", "gpu", "-k", selection, file], timeout=70))
    return "\n".join(reports)


def main() -> int:
    """Runs every step; 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_record", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--budget", type=float, default=330.0, help="seconds after which no new measurement begins")
    parser.add_argument("--dry", action="store_true", help="walk the whole path on the CPU with tiny sizes")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("no CUDA device; --dry walks the path without one")

    name = "dry" if options.dry else torch.cuda.get_device_name().replace(" ", "_").lower()
    record = Record(options.output / f"gpu_{name}_{date.today().isoformat()}.json", options.dry, options.budget)
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    record.data["machine"] = describe(options.dry)
    record.step("build", lambda: build(options.dry))
    tests = [f"tests/grm_kernels/test_{name}.py" for name in ("kernels", "torch", "cuda")]
    selection = ["-k", "test_no_graph_is_kept"] if options.dry else ["-m", "gpu"]
    record.step("tests", lambda: _run([sys.executable, "-m", "pytest", "-q", *selection, *tests], 150))
    record.data["rates"] = rates(options.dry)
    record.step("measurements", lambda: measure_all(record))
    if not options.dry:
        record.step("conformance", conformance)
        record.step("sanitizer", sanitize)
    print(f"record: {record.path}")
    return 0 if all(s["ok"] for s in record.data["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
