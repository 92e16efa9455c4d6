"""What the children of a GPU's record measure and compare: functions that give rows."""

import gc
import math
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.compare import compare_results, without_categories
from benchmarks.gpu.device import Gpu
from benchmarks.gpu.implementations import implementation
from benchmarks.record import ROOT
from benchmarks.tables import FORWARD, POLICY
from benchmarks.workload import Implementation, Inputs, Workload, make_inputs, step

_Rows = Iterator[dict]


def conformance(device: Gpu) -> _Rows:
    """Every primitive of the CUDA kernels: the tests of the emulation compare theirs with it."""
    if device.name == "cpu":
        from tests.grm_kernels import emulated

        words = emulated.emulation().conformance(emulated.emulation().Options())
        yield {"table": "conformance", "words": words}
        return
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "conformance")
        command = ["nvcc", "-std=c++17", "-arch=native", "csrc/cuda/conformance.cu", "-o", program]
        subprocess.run(command, cwd=ROOT, check=True)
        output = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout
    yield {"table": "conformance", "words": parse_conformance(output)}


def parse_conformance(output: str) -> dict[str, list[int]]:
    """Words of all lanes by case, from what csrc/cuda/conformance.cu prints."""
    lines = (line.split() for line in output.splitlines() if line.strip())
    return {name: [int(word, 16) for word in words] for name, *words in lines}


def agreement(device: Gpu, backend: str, items: list[dict]) -> _Rows:
    """A backend against the reference: the largest error of every case over what it may be."""
    ours = implementation(device, f"ours, {backend}")

    def compare(item: dict) -> dict:
        inputs = make_inputs(_workload(item), device.name)
        if reasons := _declined(ours, inputs):
            return {"declined": reasons}
        return {"error_over_bound": compare_results(ours.name, step(ours, inputs), inputs)}

    yield from _each(device, "agreement", {"backend": backend}, items, compare)


def workloads(device: Gpu, name: str, items: list[dict]) -> _Rows:
    """Times of one implementation, each of a result that was checked just before."""
    chosen = implementation(device, name)
    common = {"implementation": name, "exact": chosen.exact}
    yield from _each(device, "measurements", common, items, lambda item: measure(device, chosen, _workload(item)))


def measure(device: Gpu, chosen: Implementation, workload: Workload) -> dict:
    """Seconds of a call and what it computes and moves, or why the implementation does not serve.

    Raises:
        WrongResultError: its result is wrong.

    """
    if workload.run not in chosen.runs:
        return {"declined": f"has no {workload.run}"}
    inputs = make_inputs(workload, device.name)
    if reasons := _declined(chosen, inputs):
        return {"declined": reasons}
    results = step(chosen, inputs)
    compare_results(chosen.name, results, inputs if chosen.exact else without_categories(inputs))
    peak = device.peak_bytes(lambda: step(chosen, inputs))
    count = max(1, min(32, math.ceil(device.rotation_bytes / (4 * inputs.q.nbytes))))
    rotation = [inputs, *(make_inputs(workload, device.name, seed) for seed in range(1, count))]
    calls = [lambda x=x: step(chosen, x) for x in rotation]
    return {
        "seconds": device.seconds(calls, capturable=chosen.capturable),
        "graph": chosen.capturable and device.name == "cuda",
        "rotated_inputs": count,
        "peak_bytes": peak,
        **work(workload, inputs),
    }


def work(workload: Workload, inputs: Inputs) -> dict[str, int]:
    """Bytes that have to be moved, operations of matrix products, and exponentials.

    Bytes: every input read and every output written once. Operations: two products forward and five backward over the
    allowed pairs; with the policy's gradient two (scores and dP) over the blocked pairs too. Exponentials: one for each
    pair and pass that needs its scores.
    """
    w = workload
    n_t, n_s = ((inputs.categories == c).sum(1).double() for c in (0, 1))
    blocked = round((2 * n_t * n_s).sum().item()) * w.heads
    allowed = w.batch * w.heads * w.tokens**2 - blocked
    products = (2 if w.run == FORWARD else 7) * allowed
    exponentials = (1 if w.run == FORWARD else 2) * allowed
    if w.run == POLICY:
        products += 2 * blocked
        exponentials += blocked
    return {"bytes": w.least_bytes, "operations": 2 * w.channels * products, "exponentials": exponentials}


def tracker(device: Gpu, preset: str, mode: str, dtype: str, items: list[dict]) -> _Rows:
    """Seconds and launches of a frame in the paper's forms, by number of targets."""
    from benchmarks.gpu.models import TrackedForms

    forms = TrackedForms(device, preset, mode, getattr(torch, dtype))
    common = {"preset": preset, "mode": mode, "dtype": dtype}
    yield from _each(device, "tracker", common, items, forms.measure)


def training(device: Gpu, preset: str, batch: int, precision: str, items: list[dict]) -> _Rows:
    """Seconds and memory of a training step with each form of attention."""
    from benchmarks.gpu.models import TrainingForms

    forms = TrainingForms(device, preset, batch, precision)
    common = {"preset": preset, "batch": batch, "precision": precision}
    yield from _each(device, "training", common, items, forms.measure)


def capture(device: Gpu, backend: str, item: dict) -> _Rows:
    """Runs one workload once, for a profiler that watches."""
    step(implementation(device, f"ours, {backend}"), make_inputs(_workload(item), device.name))
    device.synchronize()
    yield {"table": "capture", "item": item}


def _each(device: Gpu, table: str, common: dict, items: list[dict], function: Callable) -> _Rows:
    """A row for each item, with what the function gives or with its error."""
    for item in items:
        known = {"table": table, **common, **item}
        yield {"begin": item, "row": known}
        try:
            result = function(item)
        except Exception as error:
            # Whatever it is, Triton's errors among them, it is of this item.
            result = {"error": f"{type(error).__name__}: {error}"[:600]}
            traceback.print_exc()
        yield {**known, "item": item, **result}
        if "error" in result:
            device.synchronize()  # ends this process if the device cannot be used any more
        if device.name == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _workload(item: dict) -> Workload:
    return Workload(**{**item, "dtype": getattr(torch, item["dtype"])})


def _declined(chosen: Implementation, inputs: Inputs) -> str:
    """Why a backend of ours cannot serve these inputs; nothing if it can."""
    from grm_kernels import explain

    if chosen.backend is None:
        return ""
    return "; ".join(explain(inputs.q, needs_grad=inputs.q.requires_grad)[chosen.backend])


FUNCTIONS = {
    function.__name__: function for function in (conformance, agreement, workloads, tracker, training, capture)
}
