"""Compares the operator with its baselines on this machine: ``python -m benchmarks.compare``.

All implementations of a cell are called in turn, round after round, so that whatever else the machine does falls on all
of them; the shortest call of each counts. A time is only recorded where the results of the first and the last image
agree with the float64 reference.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

from benchmarks import machine, record
from benchmarks.tables import BACKWARD, PASSES, POLICY
from benchmarks.workload import (
    IMPLEMENTATIONS,
    Implementation,
    Inputs,
    Workload,
    make_inputs,
    ours,
    step,
)
from grm_kernels import Category
from grm_kernels.categories import one_hot


def checked_images(inputs: Inputs) -> list[int]:
    """The first and the last image of the batch."""
    return sorted({0, inputs.q.shape[0] - 1})


class WrongResultError(Exception):
    """An implementation disagrees with the reference, so its time means nothing."""


def quick_workloads() -> list[Workload]:
    """The demo: forward by share of S, and every pass at one half."""
    cells = [Workload(batch, dtype=dtype) for dtype in (torch.float32, torch.bfloat16) for batch in (1, 8)]
    cells += [Workload(8, share_s=share, dtype=d) for d in (torch.float32, torch.bfloat16) for share in (0.0, 1.0)]
    cells += [Workload(8, dtype=d, run=r) for d in (torch.float32, torch.bfloat16) for r in (BACKWARD, POLICY)]
    return cells


def full_workloads(largest_batch: int) -> list[Workload]:
    """Every pass, dtype, N and batch size at one half S, and every share of S at B = 8."""
    return [
        Workload(batch, tokens, share, dtype, run)
        for batch in (1, 8, 32, 128)
        if batch <= largest_batch
        for dtype in (torch.float32, torch.bfloat16)
        for run in PASSES
        for tokens in (320, 464)
        for share in ((0.0, 0.5, 1.0) if batch == 8 else (0.5,))
    ]


def reference_results(inputs: Inputs, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The reference on the images that are checked."""
    reference = Implementation("reference", lambda x: ours(x, backend="reference"))
    return step(reference, inputs.images(checked_images(inputs), dtype))


def compare_results(
    name: str, results: tuple[torch.Tensor, ...], inputs: Inputs, references: tuple[tuple, tuple] | None = None
) -> float:
    """Compares output and gradients of the first and the last image with the reference in float64.

    `references` are `reference_results` in float64 and in the inputs' dtype, where they are known already.

    The error may be four times that of the eager reference in the same dtype, plus four roundings of the largest value.
    The gradient of the policy is only defined up to a constant per token, so its columns are compared to the last.

    Returns:
        the largest error over what it may be.

    Raises:
        WrongResultError: it is larger.
    """
    exact, eager = references or (reference_results(inputs, d) for d in (torch.float64, inputs.q.dtype))
    if len(results) != len(exact):
        raise WrongResultError(f"{name}: {len(results)} results, expected {len(exact)}")
    largest = 0.0
    for index, (result, expected, low) in enumerate(zip(results, exact, eager, strict=True)):
        result = result[checked_images(inputs)]
        if index == 4:
            result, expected, low = (t - t[..., 2:] for t in (result, expected, low))
        error, eager_error = ((t.double() - expected).abs().max().item() for t in (result, low))
        bound = 4 * eager_error + 4 * torch.finfo(inputs.q.dtype).eps * expected.abs().max().item()
        if not error <= bound:
            raise WrongResultError(f"{name}: result {index} is {error:.2e} off, bound {bound:.2e}")
        largest = max(largest, error / bound if bound else 0.0)
    return largest


def checked(workload: Workload, implementations: Iterable[Implementation]) -> tuple[Inputs, list[Implementation]]:
    """Inputs of the workload, and the implementations that have its pass, each of which has given the right result.

    Raises:
        WrongResultError: one of them is wrong.
    """
    inputs = make_inputs(workload)
    chosen = [i for i in implementations if workload.run in i.runs]
    references = tuple(reference_results(inputs, dtype) for dtype in (torch.float64, inputs.q.dtype))
    for implementation in chosen:
        results = step(implementation, inputs)  # warms up and compiles, too
        if implementation.exact:
            compare_results(implementation.name, results, inputs, references)
        else:
            compare_results(implementation.name, results, without_categories(inputs))
    return inputs, chosen


def without_categories(inputs: Inputs) -> Inputs:
    """The same tensors with every token in A, which is dense attention."""
    categories = torch.full_like(inputs.categories, Category.A)
    return replace(inputs, categories=categories, policy=one_hot(categories))


def shortest(inputs: Inputs, implementations: list[Implementation], budget_s: float) -> tuple[dict[str, float], int]:
    """Seconds of the shortest call of each, all in turn for `budget_s` seconds, 3 rounds at least; and the rounds."""
    best = dict.fromkeys((i.name for i in implementations), float("inf"))
    rounds, begin = 0, time.perf_counter()
    while rounds < 3 or time.perf_counter() - begin < budget_s:
        rounds += 1
        for implementation in implementations:
            start = time.perf_counter()
            step(implementation, inputs)
            best[implementation.name] = min(best[implementation.name], time.perf_counter() - start)
    return best, rounds


def measure(workload: Workload, implementations: Iterable[Implementation], budget_s: float) -> list[dict]:
    """Times the implementations that have the workload's pass, interleaved, for `budget_s` seconds, 3 rounds at least.

    Raises:
        WrongResultError: one of them is wrong.
    """
    best, rounds = shortest(*checked(workload, implementations), budget_s)
    workload_fields = {**asdict(workload), "dtype": str(workload.dtype)}
    return [
        {"implementation": name, **workload_fields, "seconds": seconds, "rounds": rounds}
        for name, seconds in best.items()
    ]


def run(workloads: list[Workload], budget_s: float, *, with_flex: bool = True) -> dict:
    """Measures all workloads and returns the record: machine, rates, measurements."""
    from rich.progress import track

    implementations = [i for i in IMPLEMENTATIONS if with_flex or not i.name.startswith("Flex")]
    dtypes = sorted({w.dtype for w in workloads}, key=str)
    result = {
        "kind": "cpu",
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "matrix_rate": {str(dtype): machine.matrix_rate(dtype) for dtype in dtypes},
        "memory_rate": machine.memory_rate(),
        "measurements": [],
    }
    for workload in track(workloads, description="measuring"):
        for m in measure(workload, implementations, budget_s):
            rate, bytes_rate = workload.dense_operations / m["seconds"], workload.least_bytes / m["seconds"]
            m["share_of_matrix_rate"] = rate / result["matrix_rate"][m["dtype"]]
            m["share_of_memory_rate"] = bytes_rate / result["memory_rate"]
            result["measurements"].append(m)
    return result


def part(text: str) -> tuple[int, int]:
    """I and K of "I/K".

    Raises:
        argparse.ArgumentTypeError: it is none, or I is not from 1 to K.

    """
    try:
        index, count = map(int, text.split("/"))
        if not 1 <= index <= count:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/K with I from 1 to K, got {text!r}") from None
    return index, count


def main() -> None:
    """Measures, prints the table, writes the record and the plot."""
    from benchmarks import report, survey

    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every pass, share, N, dtype and batch size")
    parser.add_argument(
        "--survey", action="store_true", help="the sizes of benchmarks/survey.py against torch's own attention"
    )
    parser.add_argument(
        "--part",
        type=part,
        metavar="I/K",
        help="part I of K of the survey's cells, added to the record that is in the folder: for machines with a limit",
    )
    parser.add_argument("--largest-batch", type=int, default=128, help="of --full (default 128)")
    parser.add_argument("--no-flex", action="store_true", help="leave out FlexAttention, which has to be compiled")
    parser.add_argument("--budget", type=float, help="seconds for a cell (default 2; 0.3 in the survey)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record and the plot")
    options = parser.parse_args()

    if options.survey:
        cells = survey.workloads()
        cells = survey.part_of(cells, options.part) if options.part else cells
        surveyed = survey.run(cells, options.budget or 0.3, with_flex=not options.no_flex)
        path = options.output / "survey_cpu.json"
        if options.part and path.exists():
            surveyed = survey.joined(record.read(path), surveyed)
        record.finish(surveyed, path)
        return

    measured = run(
        full_workloads(options.largest_batch) if options.full else quick_workloads(),
        options.budget or 2.0,
        with_flex=not options.no_flex,
    )
    path = options.output / "attention_cpu.json"
    record.write(measured, path)
    record.print_record(measured)
    plot = options.output / "attention_cpu.png"
    report.draw(measured, plot)
    print(f"record: {path}\nplot:   {plot}")


if __name__ == "__main__":
    main()
