"""Tables and captions of the survey of sizes and of the benchmark of busy machines."""

from benchmarks.tables import Table, machine_of, milliseconds, times

#: Sizes of a cell, as a measurement has them.
CELL = ("threads", "dtype", "run", "batch", "heads", "tokens", "channels")


def rows(record: dict) -> list[dict]:
    """A row for a cell: its sizes, our seconds, and `ratios`, each baseline's time over ours; the worst cell first."""
    cells: dict[tuple, dict[str, float]] = {}
    for m in record["measurements"]:
        cells.setdefault(tuple(m[key] for key in CELL), {})[m["implementation"]] = m["seconds"]
    table = []
    for cell, seconds in cells.items():
        ours = seconds.pop("ours")
        ratios = {name: other / ours for name, other in seconds.items()}
        table.append({**dict(zip(CELL, cell, strict=True)), "seconds": ours, "ratios": ratios})
    return sorted(table, key=lambda row: min(row["ratios"].values()))


def survey_tables(record: dict) -> list[Table]:
    """The cells with a ratio below 1.0, then the others."""
    table = rows(record)
    below = [row for row in table if min(row["ratios"].values()) < 1]
    names = list(dict.fromkeys(name for row in table for name in row["ratios"]))
    header = ["threads", "dtype", "pass", "B", "H", "N", "D", "ours", *names]
    tables = []
    for title, part in (
        (f"Below 1.0 ({len(below)} of {len(table)} cells)", below),
        ("At least 1.0", table[len(below) :]),
    ):
        lines = [
            [
                str(row["threads"]),
                row["dtype"].removeprefix("torch."),
                row["run"],
                *(str(row[key]) for key in ("batch", "heads", "tokens", "channels")),
                milliseconds(row["seconds"]),
                *(times(row["ratios"].get(name)) for name in names),
            ]
            for row in part
        ]
        tables += [Table(header, lines, title)] if lines else []
    return tables


def survey_caption(record: dict) -> str:
    """Machine, instruction sets, load, and what the ratios are."""
    m = record["machine"]
    return (
        f"{machine_of(record)}, of {', '.join(m['instruction_sets'])}; {record['date']}, kernel sources "
        f"{m['sources']}, load {record['load_before'][0]:.2f} before. On the right: time of the baseline over ours, "
        "both in the same run, each checked by the results of its first and last image. The worst cell first."
    )


def busy_tables(record: dict) -> list[Table]:
    """A row for each setting."""
    header = ["threads", "busy loops", "waiting", "passes a second", "slowest pass"]
    lines = [
        [
            str(m["threads"]),
            str(m["busy"]),
            m["policy"] or "as OpenMP has it",
            f"{1 / m['median_s']:.2f}",
            milliseconds(m["slowest_s"]),
        ]
        for m in record["measurements"]
    ]
    return [Table(header, lines)]


def busy_caption(record: dict) -> str:
    """Machine, dtype, load, and what a pass is."""
    return (
        f"{machine_of(record)}, {record['dtype'].removeprefix('torch.')}; {record['date']}, load "
        f"{record['load_before'][0]:.2f} before. Passes through six layers of a transformer in a process of its own "
        "beside processes that do nothing but run; medians, and the slowest."
    )
