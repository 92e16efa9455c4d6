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
        "load_before": os.getloadavg(),
        "measurements": [],
    }
    counts = thread_counts()
    try:
        for workload in track(cells, description="measuring"):
            torch.set_num_threads(counts[-1])
            inputs, chosen = checked(workload, implementations)
            sizes = {**asdict(workload), "dtype": str(workload.dtype)}
            for threads in counts:
                torch.set_num_threads(threads)
                best, rounds = shortest(inputs, chosen, budget_s)
                record["measurements"] += [
                    {"implementation": name, **sizes, "threads": threads, "seconds": seconds, "rounds": rounds}
                    for name, seconds in best.items()
                ]
    finally:
        torch.set_num_threads(counts[-1])
    return record


def rows(record: dict) -> list[dict]:
    """A row for a cell: its sizes, our seconds, and `ratios`, each baseline's time over ours; the worst cell first."""
    cells: dict[tuple, dict[str, float]] = {}
    keys = ("threads", "dtype", "run", "batch", "heads", "tokens", "channels")
    for m in record["measurements"]:
        cells.setdefault(tuple(m[key] for key in keys), {})[m["implementation"]] = m["seconds"]
    table = []
    for cell, seconds in cells.items():
        ours = seconds.pop("ours")
        ratios = {name: other / ours for name, other in seconds.items()}
        table.append({**dict(zip(keys, cell, strict=True)), "seconds": ours, "ratios": ratios})
    return sorted(table, key=lambda row: min(row["ratios"].values()))


def print_tables(record: dict) -> None:
    """Prints the cells with a ratio below 1.0, then the others."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.width >= 120 else Console(width=120)
    table = rows(record)
    below = [row for row in table if min(row["ratios"].values()) < 1]
    names = list(dict.fromkeys(name for row in table for name in row["ratios"]))
    for title, part in (
        (f"Below 1.0 ({len(below)} of {len(table)} cells)", below),
        ("At least 1.0", table[len(below) :]),
    ):
        shown = Table("threads", "dtype", "pass", "B", "H", "N", "D", "ours", *names, title=title)
        for row in part:
            sizes = [str(row[key]) for key in ("batch", "heads", "tokens", "channels")]
            ratios = [f"{row['ratios'][name]:.2f}x" if name in row["ratios"] else "n/a" for name in names]
            dtype = row["dtype"].removeprefix("torch.")
            shown.add_row(str(row["threads"]), dtype, row["run"], *sizes, f"{row['seconds'] * 1e3:.3g} ms", *ratios)
        if part:
            console.print(shown)
    m = record["machine"]
    console.print(
        f"{m['processor']}, {m['instruction_set']} of {', '.join(m['instruction_sets'])}; torch {m['torch']}, "
        f"{record['date']}, load {record['load_before'][0]:.2f} before. Ratios: time of the baseline over ours."
    )
