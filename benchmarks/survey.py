"""Where the operator is slower than torch's own attention: ``python -m benchmarks.compare --survey``.

The sizes that users bring and a tracker does not: few tokens and many, one head, any number of channels, one thread and
as many as torch takes. Each is timed and checked as `benchmarks.compare` does it; what is below 1.0 is printed first.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date

import torch

from benchmarks import machine
from benchmarks.compare import checked, shortest
from benchmarks.record import RecordError
from benchmarks.survey_tables import CELL
from benchmarks.tables import BACKWARD, FORWARD
from benchmarks.workload import IMPLEMENTATIONS, Workload
from grm_kernels import cpu

#: Images, heads, tokens and channels of every cell.
SIZES = (
    *((batch, 12, tokens, 64) for tokens in (8, 17, 32) for batch in (1, 8)),
    *((1, 12, tokens, 64) for tokens in (197, 320, 1024)),
    *((1, 1, tokens, 64) for tokens in (320, 1024, 4096)),
    *((1, 12, 320, channels) for channels in (12, 36, 80, 96, 128, 256)),
)

DTYPES = (torch.float32, torch.bfloat16)

#: torch's own attention; the paper's two forms are left to `benchmarks.compare`.
BASELINES = ("SDPA, dense", "SDPA, boolean mask", "FlexAttention + mask")


def workloads(sizes: Iterable[tuple[int, int, int, int]] = SIZES) -> list[Workload]:
    """Both dtypes, forward alone and with the backward pass, at every size."""
    return [
        Workload(batch, tokens, dtype=dtype, run=run, heads=heads, channels=channels)
        for dtype in DTYPES
        for run in (FORWARD, BACKWARD)
        for batch, heads, tokens, channels in sizes
    ]


def thread_counts() -> list[int]:
    """One thread, and as many as torch takes."""
    return sorted({1, torch.get_num_threads()})


def run(cells: list[Workload], budget_s: float, *, with_flex: bool = True) -> dict:
    """Measures all cells for every number of threads and returns the record."""
    from rich.progress import track

    names = ["ours", *(name for name in BASELINES if with_flex or not name.startswith("Flex"))]
    implementations = [i for i in IMPLEMENTATIONS if i.name in names]
    record = {
        "kind": "survey",
        "date": date.today().isoformat(),
        "machine": {**machine.describe(), "instruction_sets": cpu.instruction_sets()},
        "load_before": list(os.getloadavg()),
        "measurements": [],
    }
    counts = thread_counts()
    try:
        for workload in track(cells, description="measuring"):
            sizes = {**asdict(workload), "dtype": str(workload.dtype)}
            for threads in counts:
                torch.set_num_threads(threads)
                # Anew: what torch.compile made is of one number of threads.
                best, rounds = shortest(*checked(workload, implementations), budget_s)
                record["measurements"] += [
                    {"implementation": name, **sizes, "threads": threads, "seconds": seconds, "rounds": rounds}
                    for name, seconds in best.items()
                ]
    finally:
        torch.set_num_threads(counts[-1])
    return record


def part_of(cells: list[Workload], part: tuple[int, int]) -> list[Workload]:
    """Part i of k of the cells, counted from 1: every k-th, so that parts take about as long."""
    return cells[part[0] - 1 :: part[1]]


def joined(earlier: dict, record: dict) -> dict:
    """One record of two that were measured on the same machine; of a cell that both have, the later counts. Of the two
    loads it has the larger.

    Raises:
        RecordError: machine or sources are not the same.

    """
    for key in record["machine"].keys() | earlier["machine"].keys():
        here, there = record["machine"].get(key), earlier["machine"].get(key)
        if here != there:
            raise RecordError(f"machine: expected {key} of the parts to be the same, got {there!r} and {here!r}")
    keys = ("implementation", *CELL)
    measured = {tuple(m[key] for key in keys): m for m in earlier["measurements"] + record["measurements"]}
    load = list(map(max, earlier["load_before"], record["load_before"]))
    return {**record, "load_before": load, "measurements": list(measured.values())}
