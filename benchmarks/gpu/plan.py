"""What is run on a machine with a GPU, in the order of what is most needed: tasks, each a process of its own.

Nothing here, nor in `benchmarks.gpu.schedule`, imports torch or the kernels: the process that plans lives through the
build and through whatever its children do to the GPU.
"""

import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.record import GPU_SOURCES, ROOT
from benchmarks.tables import BACKWARD, FORWARD, PASSES, POLICY


@dataclass(frozen=True)
class Task:
    """One process: a function of `benchmarks.gpu.child`, or a command."""

    name: str
    stage: str
    #: Seconds that it usually takes: it does not begin with fewer left.
    seconds: float
    #: Seconds without a row (of a command: altogether) after which it counts as hung.
    patience: float
    call: str = ""
    arguments: dict = field(default_factory=dict)
    #: What the function is to give a row for, one after the other; each is lost or kept for itself.
    items: tuple[dict, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    tokens: tuple[int, ...] = (320, 464)
    batches: tuple[int, ...] = (32, 128, 1, 8)
    shares: tuple[float, ...] = (0.5, 0.0, 1.0)
    #: Batch sizes of implementations that are compiled for every shape, which takes long.
    compiled: tuple[int, ...] = (32,)
    heads: int = 12
    channels: int = 64
    dtype: str = "bfloat16"
    preset: str = "grm_b256"
    targets: tuple[int, ...] = (1, 8, 32)
    training_batch: int = 32


#: Of a rehearsal without a GPU: float16, in which both the emulation and Triton's interpreter compute rightly.
TINY = Sizes((80,), (1, 2), (0.5, 1.0), (1,), 1, 32, "float16", "grm_tiny", (1, 2), 2)

#: Baselines with the passes that they have; True: compiled for every shape.
BASELINES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("SDPA, dense, flash", (FORWARD, BACKWARD), False),
    ("SDPA, dense, cuDNN", (FORWARD, BACKWARD), False),
    ("SDPA, dense, efficient", (FORWARD, BACKWARD), False),
    ("FlexAttention + mask", (FORWARD, BACKWARD), True),
    ("FlexAttention, mask at hand", (FORWARD, BACKWARD), True),
    ("masked (paper), compiled", (FORWARD, POLICY), True),
    ("masked (paper)", PASSES, False),
    ("separate (paper)", (FORWARD, BACKWARD), False),
    ("SDPA, boolean mask", (FORWARD, BACKWARD), False),
)
#: On the CPU torch's attention has one dense form, and FlexAttention no backward pass.
DRY_BASELINES = (
    ("SDPA, dense, math", (FORWARD, BACKWARD), False),
    ("FlexAttention + mask", (FORWARD,), True),
    ("FlexAttention, mask at hand", (FORWARD,), True),
    *BASELINES[5:],
)
BACKENDS = ("cuda", "triton")
TRACKER_MODES = ("eager", "graph", "compile + graph")

#: A small test of each backend under the sanitizer, forward and backward; part of the names of the kernels to watch.
SANITIZED = (
    ("cuda", "test_cuda.py", "token_counts and gpu-33-64", ("N3grm4cuda",)),
    ("triton", "test_kernels.py", "token_counts and triton and bfloat16-33", ("forward_kernel", "backward_kernel")),
)
#: What a rehearsal selects in their place.
DRY_SANITIZED = {"cuda": "token_counts and emulator-33-32", "triton": "token_counts and triton and float16-33"}


def architecture(capability: str) -> str:
    """The architecture to compile for, of a GPU of this compute capability: 9.0 has instructions of its own."""
    return "9.0a" if capability == "9.0" else capability


def extension_is_current() -> bool:
    """Whether the extension in the source folder was compiled for this Python, after the last change of its sources."""
    extension = ROOT / "grm_kernels" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [path for pattern in GPU_SOURCES for path in ROOT.glob(pattern)]
    return extension.exists() and extension.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def tasks(capability: str, dry: bool, more: tuple[str, ...] = ()) -> list[Task]:
    """All tasks in their order.

    Args:
        capability: compute capability of the GPU, as "9.0".
        dry: a rehearsal on a CPU with tiny sizes.
        more: implementations of other modules to measure among the baselines, each as "module:name".

    """
    sizes = TINY if dry else Sizes()
    return [
        _build(capability, dry),
        *_conformance(sizes),
        _pytest("CUDA tests", "CUDA tests", dry, ["tests/grm_kernels/test_cuda.py"], "test_scale and emulator", 60),
        Task("rates", "baselines", 10, 120, "rates"),
        *_baselines(sizes, (*(DRY_BASELINES if dry else BASELINES), *((name, PASSES, False) for name in more))),
        *_ours(sizes),
        *_tracker(sizes),
        *_training(sizes),
        *_triton_tests(dry),
        *_sanitizer(dry),
        _capture(sizes, dry),
        *_float32(sizes, dry),
    ]


def _build(capability: str, dry: bool) -> Task:
    command = (sys.executable, "setup.py", "--quiet", "build_ext")
    where = ("--build-lib", "build/dry", "--build-temp", "build/dry") if dry else ("--inplace",)
    environment = {"GRM_KERNELS_CUDA": architecture(capability)}
    return Task("build", "build", 60, 300, command=(*command, *where), environment=environment)


def _conformance(sizes: Sizes) -> Iterator[Task]:
    yield Task("conformance", "conformance", 15, 120, "conformance")
    cases = tuple(
        _workload(sizes, run, tokens, 2, share)
        for run in (FORWARD, POLICY)
        for tokens in (97, *sizes.tokens)
        for share in (0.5, 1.0)
    )
    for backend in BACKENDS:
        yield Task(f"agreement, {backend}", "conformance", 15, 120, "agreement", {"backend": backend}, cases)


def _workload(sizes: Sizes, run: str, tokens: int, batch: int, share: float, dtype: str = "") -> dict:
    return {
        "run": run,
        "tokens": tokens,
        "batch": batch,
        "share_s": share,
        "dtype": dtype or sizes.dtype,
        "heads": sizes.heads,
        "channels": sizes.channels,
    }


def _measured(name: str, stage: str, run: str, workloads: list[dict], slow: bool) -> Task:
    first = workloads[0]
    title = f"{name}, {run}, N = {first['tokens']}, {first['dtype']}"
    seconds, patience = (30, 150) if slow else (6, 60)
    return Task(title, stage, seconds, patience, "workloads", {"name": name}, tuple(workloads))


def _baselines(sizes: Sizes, baselines: tuple) -> Iterator[Task]:
    for tokens in sizes.tokens:
        for name, runs, slow in baselines:
            for run in runs:
                batches = sizes.compiled if slow else sizes.batches
                workloads = [_workload(sizes, run, tokens, batch, 0.5) for batch in batches]
                yield _measured(name, "baselines", run, workloads, slow)


def _ours(sizes: Sizes) -> Iterator[Task]:
    for tokens in sizes.tokens:
        for backend in BACKENDS:
            for run in PASSES:
                workloads = [_workload(sizes, run, tokens, b, share) for b in sizes.batches for share in sizes.shares]
                yield _measured(f"ours, {backend}", "ours", run, workloads, False)


def _tracker(sizes: Sizes) -> Iterator[Task]:
    for mode in TRACKER_MODES:
        slow = mode.startswith("compile")
        items = tuple({"targets": targets} for targets in sizes.targets[: 1 if slow else None])
        arguments = {"preset": sizes.preset, "mode": mode, "dtype": "bfloat16" if sizes.heads > 1 else "float32"}
        seconds, patience = (90, 240) if slow else (20, 90)
        yield Task(f"tracker, {mode}", "tracker", seconds, patience, "tracker", arguments, items)


def _training(sizes: Sizes) -> Iterator[Task]:
    forms = tuple({"form": form} for form in ("fused", "masked", "separate"))
    for precision in ("bfloat16", "float32"):
        arguments = {"preset": sizes.preset, "batch": sizes.training_batch, "precision": precision}
        yield Task(f"training, {precision}", "training", 25, 120, "training", arguments, forms)


def _pytest(name: str, stage: str, dry: bool, files: list[str], dry_selection: str, seconds: float) -> Task:
    workers = min(8, (os.cpu_count() or 1) // 2)
    parallel = ["-n", f"{workers}"] if importlib.util.find_spec("xdist") and workers > 1 and not dry else []
    selection = ["-k", dry_selection] if dry else ["-m", "gpu"]
    command = (sys.executable, "-m", "pytest", "-q", "--durations=5", *parallel, *selection, *files)
    return Task(name, stage, seconds, 3 * seconds, command=command)


def _triton_tests(dry: bool) -> Iterator[Task]:
    others = ["tests/grm_kernels", "--ignore=tests/grm_kernels/test_cuda.py"]
    files = ["tests/grm_kernels/test_kernels.py"] if dry else others
    yield _pytest("Triton tests", "Triton tests", dry, files, "test_scale and triton", 100)
    yield _pytest(
        "tracker tests", "Triton tests", dry, ["tests/grm/tracking/test_tracker.py"], "test_model_is_left_alone", 30
    )


def _sanitizer(dry: bool) -> Iterator[Task]:
    # Without it torch hands out parts of larger blocks, and what lies beyond a tensor is memory of its own.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for backend, file, selection, kernels in SANITIZED:
        selected = ("-k", DRY_SANITIZED[backend]) if dry else ("-m", "gpu", "-k", selection)
        test = (sys.executable, "-m", "pytest", "-q", "-x", *selected, f"tests/grm_kernels/{file}")
        for kernel in kernels:
            for tool in ("memcheck", "racecheck"):
                watch = ("--tool", tool, "--kernel-name", f"kns={kernel}", "--error-exitcode", "9")
                command = test if dry else ("compute-sanitizer", *watch, *test)
                name = f"{tool}, {backend}, {kernel}"
                yield Task(name, "sanitizer", 30, 120, command=command, environment=environment)


def _capture(sizes: Sizes, dry: bool) -> Task:
    case = _workload(sizes, POLICY, sizes.tokens[0], sizes.batches[0], 0.5)
    child = child_command("capture", {"backend": "cuda", "item": case, "dry": dry, "at_once": True})
    profiler = ("ncu", "--clock-control", "none", "--set", "full", "--kernel-name", "regex:(forward|backward)_kernel")
    prefix = () if dry else (*profiler, "--launch-count", "2")
    return Task("capture", "capture", 30, 120, command=(*prefix, *child))


def _float32(sizes: Sizes, dry: bool) -> Iterator[Task]:
    dense = DRY_BASELINES[0][0] if dry else "SDPA, dense, efficient"
    for name in ("ours, triton", "masked (paper)", dense):
        for run in PASSES if name != dense else (FORWARD, BACKWARD):
            batches = [batch for batch in sizes.batches if batch in (1, 32)]
            workloads = [_workload(sizes, run, sizes.tokens[0], batch, 0.5, "float32") for batch in batches]
            yield _measured(name, "float32", run, workloads, False)


def child_command(call: str, arguments: dict, rows: int = 1) -> tuple[str, ...]:
    """The command of a child that writes its rows to a file descriptor."""
    return (
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "benchmarks.gpu.child",
        call,
        json.dumps(arguments),
        f"{rows}",
    )
