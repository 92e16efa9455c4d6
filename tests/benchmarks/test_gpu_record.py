"""A GPU's record: its plan, what its children measure, what follows from its rows; and the whole path without a GPU."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import measure, plan, summary
from benchmarks.gpu.device import Gpu, StandIn
from benchmarks.gpu.implementations import implementation
from benchmarks.record import ROOT, RecordError, check, markdown, read
from benchmarks.tables import BACKWARD, FORWARD, PASSES, POLICY
from benchmarks.workload import Workload, make_inputs

# ---- the plan ----


def test_the_process_that_plans_imports_neither_torch_nor_kernels():
    code = "import sys, benchmarks.gpu_record as g; g.plan.tasks('9.0', False); print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert "benchmarks.gpu.schedule" in modules and not {"torch", "triton", "grm_kernels", "grm"} & set(modules)


def test_order():
    tasks = plan.tasks("9.0", dry=False)
    assert len({task.name for task in tasks}) == len(tasks)
    stages = ["build", "conformance", "CUDA tests", "baselines", "ours", "tracker", "training", "Triton tests"]
    assert list(dict.fromkeys(task.stage for task in tasks)) == [*stages, "sanitizer", "capture", "float32"]
    sanitizer = [task for task in tasks if task.stage == "sanitizer"]
    backends = [task.name.split(", ")[1] for task in sanitizer]
    assert backends == sorted(backends) and backends[0] == "cuda"
    assert all(task.environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} for task in sanitizer)
    ours = [task for task in tasks if task.stage == "ours"]
    measured = {(item["batch"], item["tokens"], item["run"]) for task in ours for item in task.items}
    assert measured == {(b, n, run) for b in (1, 8, 32, 128) for n in (320, 464) for run in PASSES}


@pytest.mark.parametrize(("capability", "name"), [("8.0", "8.0"), ("9.0", "9.0a"), ("12.0", "12.0")])
def test_only_the_architecture_that_is_there_is_compiled(capability, name):
    assert plan.tasks(capability, dry=False)[0].environment == {"GRM_KERNELS_CUDA": name}


@pytest.mark.parametrize("xdist", [True, False])
def test_tests_run_in_parallel_where_they_can(monkeypatch, xdist):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: xdist or None)
    monkeypatch.setattr(plan.os, "cpu_count", lambda: 16)
    (task,) = (task for task in plan.tasks("9.0", dry=False) if task.name == "Triton tests")
    assert ("-n" in task.command) == xdist and "gpu" in task.command


@pytest.mark.parametrize("dry", [True, False])
def test_every_name_is_that_of_an_implementation(dry):
    """And it has the passes that are planned."""
    device = StandIn() if dry else Gpu.__new__(Gpu)
    for task in plan.tasks("9.0", dry):
        if task.call == "workloads":
            chosen = implementation(device, task.arguments["name"])
            assert chosen.name == task.arguments["name"] and task.items[0]["run"] in chosen.runs
    with pytest.raises(ValueError, match=r"expected a name of benchmarks\.gpu\.plan or module:attribute, got 'none'"):
        implementation(device, "none")


@pytest.mark.slow
def test_what_the_sanitizer_runs_exists():
    """A selection that names no test would end with an error on the day a GPU is there."""
    selections = [selection.replace("gpu-", "emulator-") for _, _, selection, _ in plan.SANITIZED]
    selected = " or ".join(f"({selection})" for selection in (*selections, *plan.DRY_SANITIZED.values()))
    files = [f"tests/grm_kernels/{file}" for _, file, _, _ in plan.SANITIZED]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", selected, *files]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for name in ("emulator-33-64", "emulator-33-32", "triton-torch.bfloat16-33", "triton-torch.float16-33"):
        assert f"test_token_counts[{name}]" in names
    sources = [*(ROOT / "csrc/cuda").glob("*.cuh"), *(ROOT / "grm_kernels/triton").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    for *_, kernels in plan.SANITIZED:
        assert all(kernel.replace("N3grm4cuda", "namespace grm::cuda") in text for kernel in kernels)


# ---- what the children measure ----


@pytest.fixture
def stand_in():
    """Without the emulation, which another test may have in use."""
    return StandIn()


def item(run=FORWARD, batch=2, tokens=80):
    return {
        "run": run,
        "batch": batch,
        "tokens": tokens,
        "share_s": 0.5,
        "dtype": "float32",
        "heads": 2,
        "channels": 16,
    }


@pytest.mark.parametrize(("fault", "error"), [("RAISES", "LookupError: planted"), ("WRONG", "WrongResultError: wrong")])
def test_a_faulty_implementation_has_no_time(stand_in, fault, error):
    items = [item(), item(BACKWARD)]
    begin, row, *rest = measure.workloads(stand_in, f"tests.benchmarks.faulty:{fault}", items)
    assert begin["begin"] == items[0] and row["item"] == items[0]
    assert row["error"].startswith(error) and "seconds" not in row
    assert rest[-1]["declined"] == f"has no {BACKWARD}"


@pytest.mark.parametrize("run", PASSES)
def test_measured_row(stand_in, run):
    begin, row = measure.workloads(stand_in, "masked (paper)", [item(run)])
    assert begin["row"] == {key: value for key, value in row.items() if key in begin["row"]}
    assert row["seconds"] > 0 and row["exact"] and row["item"] == item(run)
    check(gpu_like([row]))


def test_agreement_is_an_error_over_its_bound(stand_in):
    _, row, *_ = measure.agreement(stand_in, "cpu", [item(POLICY)])
    assert 0 < row["error_over_bound"] <= 1


def test_a_backend_that_does_not_serve_says_why(stand_in):
    _, row = measure.workloads(stand_in, "ours, cuda", [item()])
    assert "needs tensors on an NVIDIA GPU" in row["declined"] and "error" not in row


def test_work_by_hand():
    """2 images of 80 tokens, 64 of them T and 8 S: 1024 blocked pairs of 6400 in each head."""
    products = (2 * 5376, 7 * 5376, 7 * 5376 + 2 * 1024)
    exponentials = (5376, 2 * 5376, 2 * 5376 + 1024)
    for run, matrix, exponential in zip(PASSES, products, exponentials, strict=True):
        workload = Workload(2, tokens=80, run=run, heads=3, channels=16)
        work = measure.work(workload, make_inputs(workload))
        tensors = 4 if run == FORWARD else 12
        assert work == {
            "bytes": tensors * 2 * 3 * 80 * 16 * 4,
            "operations": 2 * 3 * 2 * 16 * matrix,
            "exponentials": 2 * 3 * exponential,
        }


def test_conformance_output_is_read():
    output = "ballot 0000000a ffffffff\nexp2 3f800000\n"
    assert measure.parse_conformance(output) == {"ballot": [10, 2**32 - 1], "exp2": [0x3F800000]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_record", "--output", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "no CUDA device; --dry walks the path without one" in result.stderr


def test_a_child_that_nobody_waits_for_measures_nothing():
    """A process that planned and was killed leaves the next child waiting for its turn."""
    command = plan.child_command("describe", {"dry": True})
    result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == ""


# ---- what follows from the rows ----


def gpu_like(measurements, **others):
    machine = {"device": "GPU", "capability": "9.0", "torch": "2", "triton": "3", "sources": "0"}
    empty = {"tracker": [], "training": [], "left": [], "dry": False, "complete": True}
    rates = {"torch.bfloat16": 8e14, "memory": 4e12, "exponentials": 4e12}
    record = {"kind": "gpu", "date": "2026-01-01", "machine": machine, "steps": {}, "rates": rates}
    return record | empty | {"measurements": measurements} | others


def timed(name, run, seconds, batch=32, tokens=320, share=0.5, **others):
    workload = {"run": run, "batch": batch, "tokens": tokens, "share_s": share, "dtype": "bfloat16", "channels": 64}
    exact = not name.startswith("SDPA, dense")
    return {"implementation": name, "exact": exact, "seconds": seconds, **workload, **others}


def test_floors_are_at_rates_of_the_run():
    row = timed("ours, cuda", FORWARD, 1e-3) | {"table": "measurements"}
    row |= {"bytes": 4e8, "operations": 8e10, "exponentials": 12e8}
    rates = {"torch.bfloat16": 8e14, "memory": 4e12, "exponentials": 4e12}
    measured = summary.with_floors(row, rates)
    assert measured["floors"] == pytest.approx({"memory": 1e-4, "matrix": 1e-4, "exponentials": 3e-4})
    assert measured["limited_by"] == "exponentials" and measured["share_of_floor"] == pytest.approx(0.3)
    assert summary.with_floors(row, {"memory": 4e12})["share_of_floor"] == pytest.approx(0.1)
    assert "floors" not in summary.with_floors(row, {})
    assert summary.with_floors({"table": "tracker", "seconds": 1}, rates) == {"table": "tracker", "seconds": 1}


def test_faster_needs_every_batch_size():
    """The backward pass is what a call with gradients takes beyond the forward pass."""
    rows = [
        *(timed("ours, cuda", FORWARD, 1.0, batch) for batch in (1, 32)),
        *(timed("ours, triton", FORWARD, 3.0, batch) for batch in (1, 32)),
        *(timed("ours, cuda", POLICY, 3.0, batch) for batch in (1, 32)),
        *(timed("ours, triton", POLICY, 4.0, batch) for batch in (1, 32)),
    ]
    assert summary.faster(gpu_like(rows)) == 'frozenset({((9, 0), "forward", 64, 320)})'
    rows += [timed("ours, cuda", FORWARD, 3.5, 8), timed("ours, triton", FORWARD, 3.0, 8)]
    assert summary.faster(gpu_like(rows)) == "frozenset()"
    assert summary.faster(gpu_like([])) == "frozenset()"


def test_targets_by_their_worst_case():
    rows = [timed("SDPA, dense, flash", FORWARD, 1.2, batch) for batch in (32, 128)]
    rows += [timed("SDPA, dense, cuDNN", FORWARD, 1.1, batch) for batch in (32, 128)]
    rows += [timed("ours, cuda", FORWARD, seconds, batch, share=0.0) for batch, seconds in ((32, 0.9), (128, 1.05))]
    rows += [timed("ours, cuda", FORWARD, 0.5, 32, share=1.0), timed("ours, triton", FORWARD, 9.0, 32, share=1.0)]
    rows += [timed("ours, cuda", FORWARD, 9.0, 1, share=1.0)]
    frame = {
        "fused": {"seconds": 1.0, "launches": 131},
        "two-stream": {"seconds": 0.98},
        "layers fixed": {"seconds": 1},
    }
    tracker = [{"mode": mode, "targets": 1, "forms": frame} for mode in ("eager", "graph")]
    verdicts = dict(summary.targets(gpu_like(rows, tracker=tracker)))
    assert verdicts["forward, no S, over the fastest dense SDPA"] == "MISSED, 1.05 of 1.1 at N = 320, B = 128"
    assert verdicts["forward, all S, over the fastest dense SDPA"] == "met, 2.20 of 1.5 at N = 320, B = 32"
    assert verdicts["forward over masked"] == "not measured"
    assert verdicts["tracker, fps over two-stream"] == "met, 0.98 of 0.97 at graph"
    assert verdicts["tracker, launches a frame"] == "MISSED, 131 of at most 130"


@pytest.mark.parametrize(("long", "verdict"), [(150, "met"), (210, "MISSED")])
def test_memory_that_grows_with_the_square_of_n(long, verdict):
    rows = [timed("ours, cuda", POLICY, 1.0, tokens=n, peak_bytes=size) for n, size in ((320, 100), (464, long))]
    assert dict(summary.targets(gpu_like(rows)))["memory of forward and backward"].startswith(verdict)


def test_the_furthest_from_its_floor():
    rows = [timed("ours, cuda", FORWARD, 1e-4, share_of_floor=0.5, limited_by="matrix")]
    rows += [timed("ours, triton", FORWARD, 2e-4, tokens=464, share_of_floor=0.25, limited_by="memory")]
    expected = "ours, triton, N = 464, B = 32, S 0.5: 200 us, 25% of the memory floor"
    assert summary.furthest(gpu_like(rows), FORWARD).endswith(expected)
    assert summary.furthest(gpu_like(rows), POLICY).endswith("not measured")


def test_summary_is_short_and_begins_with_what_failed():
    steps = {f"step {i}": {"ok": i > 5, "error": "why" * 99} for i in range(30)}
    declined = timed("ours, cuda", POLICY, 0.0) | {"declined": "why"}
    lines = summary.lines(gpu_like([declined], steps=steps, left=["capture"]))
    assert len(lines) <= summary.LINES and "24 of 30 steps ok, 1 left for the next call (first: capture)" in lines[0]
    assert lines[1].startswith("FAILED step 0 (why") and "4 more" in lines[3]
    assert lines[-1].startswith(f"furthest from its floor, {POLICY}")


def test_record_of_rows():
    """The words of the conformance program are where the tests of the emulation look for them; the last time counts."""
    own = {"table": "measurements", "step": "a", "item": item(), "implementation": "ours, cuda", **item()}
    rows = [
        {"table": "machine", "step": "describe", "device": "GPU", "torch": "2", "sources": "0"},
        {"table": "rates", "step": "rates", "memory": 1.0},
        {"table": "conformance", "step": "conformance", "words": {"ballot": [1]}},
        {"table": "steps", "step": "conformance", "status": "ok", "seconds": 1.0},
        {"table": "steps", "step": "capture", "status": "absent", "seconds": 0.0},
        own | {"error": "no"},
        own | {"seconds": 1.0},
        {"table": "steps", "step": "a", "status": "cut", "seconds": 1.0},
    ]
    record = check(summary.assemble(rows, [], "2026-01-01", dry=False))
    assert record["steps"]["conformance"]["ok"] and record["steps"]["conformance"]["result"] == {"ballot": [1]}
    assert record["steps"]["capture"]["ok"] and not record["steps"]["a"]["ok"] and not record["complete"]
    assert [row.get("seconds") for row in record["measurements"]] == [1.0] and record["rates"] == {"memory": 1.0}
    assert "Failed: a. The record is not complete." in markdown(record)


# ---- from end to end ----


@pytest.mark.slow
def test_rehearsal(tmp_path):
    """Everything without a GPU, with implementations among the others that raise, hang, die and are wrong."""
    faults = ("RAISES", "HANGS", "KILLS", "WRONG")
    more = [f"--with=tests.benchmarks.faulty:{fault}" for fault in faults]
    command = [sys.executable, "-m", "benchmarks.gpu_record", "--dry", "--output", str(tmp_path), "--minutes=30", *more]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (path,) = tmp_path.glob("gpu_dry_*.json")
    record = read(path)
    planted = [name for name in record["steps"] if "faulty" in name]
    failed = [name for name, step in record["steps"].items() if not step["ok"]]
    assert result.returncode == 1 and record["complete"], result.stdout + result.stderr
    assert failed == [name for name in planted if f", {FORWARD}, " in name], result.stdout
    errors = {m["implementation"]: m["error"] for m in record["measurements"] if "error" in m}
    assert [errors[f"tests.benchmarks.faulty:{fault}"].split(":")[0] for fault in faults] == [
        "LookupError",
        "hung",
        "killed",
        "WrongResultError",
    ]
    for backend in plan.BACKENDS:
        rows = [m for m in record["measurements"] if m["implementation"] == f"ours, {backend}"]
        assert {m["run"] for m in rows} == set(PASSES) and all(m["share_of_floor"] > 0 for m in rows)
    assert record["tracker"] and record["training"] and record["steps"]["conformance"]["result"]
    assert len(result.stdout.split("record: ")[1].splitlines()) <= summary.LINES + 1
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.stdout.splitlines()[0].startswith("rows:")  # nothing was left to do
    with pytest.raises(RecordError):
        read(next(tmp_path.glob("*.jsonl")))
    assert json.loads(next(tmp_path.glob("*.jsonl")).read_text().splitlines()[0])["table"] == "machine"
