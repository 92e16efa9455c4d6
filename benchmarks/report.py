"""Table and plot of a record; ``python -m benchmarks.report RECORD`` puts the table into the README.

Records are made by `benchmarks.compare` (kind "cpu"), `benchmarks.gpu_record` (kind "gpu") and `benchmarks.tracker`
(kind "tracker").
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from benchmarks.machine import CPU_SOURCES, GPU_SOURCES, ROOT, source_hash
from benchmarks.workload import FORWARD

_TITLES = {
    **dict.fromkeys(("cpu", "gpu"), "grm_kernels.category_attention against its baselines"),
    "tracker": "The tracker, frame by frame",
}
# Forms of the tracker that compute what the fused one does.
_SAME_ATTENTION = ("masked", "separate")


def cells(record: dict) -> dict[tuple, dict[str, dict]]:
    """Measurements by workload (dtype, pass, N, B, share of S), then by implementation; failed ones are left out."""
    table = defaultdict(dict)
    for m in record["measurements"]:
        if "seconds" in m:
            table[m["dtype"], m["run"], m["tokens"], m["batch"], m["share_s"]][m["implementation"]] = m
    return dict(table)


def baselines(record: dict) -> list[str]:
    """Names of the implementations that are not ours, in the order of the record."""
    names = dict.fromkeys(m["implementation"] for m in record["measurements"])
    return [name for name in names if not name.startswith("ours")]


def header(record: dict) -> list[str]:
    """Column titles."""
    if record["kind"] == "tracker":
        others = [name.removeprefix("fused, ") for name in record["measurements"][0]["forms"]][1:]
        return ["model", "dtype", "a frame", *others, "attention alone", *(f"{name} alone" for name in _SAME_ATTENTION)]
    scales = ["of torch.mm", "of copy"] if record["kind"] == "cpu" else ["of the floor"]
    return ["dtype", "pass", "N", "B", "share of S", "ours", *scales, *baselines(record)]


def rows(record: dict) -> list[list[str]]:
    """A row for a workload: what it is, the time of our fastest backend, and each baseline's time over ours."""
    if record["kind"] == "tracker":
        return [_tracker_row(m) for m in record["measurements"]]
    result = []
    for (dtype, run, tokens, batch, share), by_name in cells(record).items():
        backends = [m for name, m in by_name.items() if name.startswith("ours")]
        if not backends:
            continue
        ours = min(backends, key=lambda m: m["seconds"])
        shares = ["share_of_matrix_rate", "share_of_memory_rate"] if record["kind"] == "cpu" else ["share_of_floor"]
        ratios = [by_name[n]["seconds"] / ours["seconds"] if n in by_name else None for n in baselines(record)]
        result.append(
            [
                dtype.removeprefix("torch."),
                run,
                f"{tokens}",
                f"{batch}",
                f"{share:g}",
                f"{ours['seconds'] * 1e3:.3g} ms{ours['implementation'].removeprefix('ours')}",
                *(f"{ours[name]:.0%}" for name in shares),
                *("n/a" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            ]
        )
    return result


def _tracker_row(measurement: dict) -> list[str]:
    forms = measurement["forms"]
    fused = forms["fused"]
    return [
        measurement["preset"],
        measurement["dtype"],
        f"{fused['total'] * 1e3:.3g} ms ({1 / fused['total']:.3g} fps)",
        *(f"{form['total'] / fused['total']:.2f}x" for name, form in forms.items() if name != "fused"),
        f"{fused['attention'] * 1e3:.3g} ms",
        *(f"{forms[name]['attention'] / fused['attention']:.2f}x" for name in _SAME_ATTENTION),
    ]


def _tracker_caption(record: dict) -> str:
    m = record["machine"]
    parts = "; ".join(
        f"{x['preset']} {x['dtype']}: "
        + ", ".join(f"{name} {seconds / sum(x['parts'].values()):.0%}" for name, seconds in x["parts"].items())
        for x in record["measurements"]
    )
    flips = "; ".join(
        f"{x['preset']} {x['dtype']}: mean IoU of its boxes to float32's {x['agreement']['mean_iou']:.4f}, "
        f"{x['agreement']['flips']:.2%} of the tokens divided differently"
        for x in record["measurements"]
        if x["dtype"] != "float32"
    )
    return (
        f"{m['processor']}, {m['threads']} threads, torch {m['torch']}, {record['date']}. One target in a frame of "
        "1280 x 720 that is in memory, pre- and post-processing included. `a frame`: the adaptive form (GRM) with "
        "fused attention; right of it the time of the other forms over that, all in one run, in turn, medians. "
        "masked, separate: the paper's two implementations of the same. two-stream, one-stream: the paper's Table 4, "
        "without division. layers fixed: every second dividing layer all S (appendix C.2). New weights, brought to "
        "half of the search tokens in S in every layer. `attention alone`: the operator on q, k, v of all layers. "
        f"Where the time goes: {parts}. On the same crops of a synthetic video, {flips}."
    )


def caption(record: dict) -> str:
    """What the numbers are and where they come from."""
    if record["kind"] == "tracker":
        return _tracker_caption(record)
    m = record["machine"]
    common = "Columns on the right: time of the baseline over ours, both in the same run, every result checked. "
    if record["kind"] == "cpu":
        sources, rates = CPU_SOURCES, record["matrix_rate"]
        where = f"{m['processor']}, {m['threads']} threads, {m['instruction_set']}, torch {m['torch']}"
        memory = record["memory_rate"]
        scale = (
            "`of torch.mm`: operations of dense attention over our time, as a share of the rate of torch.mm; skipped "
            "pairs count as done. `of copy`: bytes of all tensors, each moved once, over our time, as a share of the "
            "rate of a large copy."
        )
    else:
        sources, rates = GPU_SOURCES, {k: v for k, v in record["rates"].items() if k != "memory"}
        where = f"{m.get('device', 'dry run on a CPU')}, torch {m['torch']}, Triton {m['triton']}"
        memory = record["rates"]["memory"]
        scale = "`of the floor`: the larger of bytes over memory rate and operations over matrix rate, over our time."
    matrix = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {dtype.removeprefix('torch.')}" for dtype, rate in rates.items())
    stale = "" if m["sources"] == source_hash(sources) else " **The kernels have changed since.**"
    return (
        f"{where}; torch.mm: {matrix}; copy: {memory / 1e9:,.0f} GB/s. {record['date']}, kernel sources "
        f"{m['sources']}.{stale} {common}{scale}"
    )


def print_table(record: dict) -> None:
    """Prints the table to the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header(record), title=_TITLES[record["kind"]])
    for row in rows(record):
        table.add_row(*row)
    console = Console()
    console = console if console.width >= 140 else Console(width=140)
    console.print(table)
    console.print(caption(record))


def markdown(record: dict) -> str:
    """The same table in Markdown."""
    titles = header(record)
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(record)]
    return "\n".join(lines) + f"\n\n{caption(record)}"


def draw(record: dict, path: Path) -> None:
    """Bars of forward time at B = 8 (or the largest) and N = 320 by share of S, a panel for each dtype, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = {key: value for key, value in cells(record).items() if key[1] == FORWARD and key[2] == 320}
    batches = {key[3] for key in table}
    batch = 8 if 8 in batches else max(batches)
    dtypes = list(dict.fromkeys(key[0] for key in table))
    names = list(dict.fromkeys(m["implementation"] for m in record["measurements"]))
    width = 0.8 / len(names)
    figure, axes = plt.subplots(1, len(dtypes), figsize=(7 * len(dtypes), 4.5), squeeze=False, layout="constrained")
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        shares = sorted(key[4] for key in table if key[0] == dtype and key[3] == batch)
        for index, name in enumerate(names):
            by_share = [table[dtype, FORWARD, 320, batch, share].get(name) for share in shares]
            xs = [s + (index - (len(names) - 1) / 2) * width for s, m in enumerate(by_share) if m]
            bars = axis.bar(xs, [m["seconds"] * 1e3 for m in by_share if m], width, label=name)
            axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.set_yscale("log")
        axis.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
        axis.set_xlabel("share of the search tokens that are S")
        axis.set_ylabel("milliseconds (log scale)")
        axis.set_title(f"forward, {dtype.removeprefix('torch.')}, B = {batch}, 64 + 256 tokens, 12 heads of 64")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def update_readme(record: dict, readme: Path = ROOT / "README.md") -> None:
    """Replaces what stands between the markers of the record's kind in the README.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {record['kind']} benchmark -->", f"<!-- end of {record['kind']} benchmark -->"
    text = readme.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{readme}: expected the markers {begin} and {end}")
    before, _, rest = text.partition(begin)
    readme.write_text(f"{before}{begin}\n{markdown(record)}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    """Puts a record's table into the README, or prints it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--print", action="store_true", help="only print the table")
    options = parser.parse_args()
    record = json.loads(options.record.read_text())
    if options.print:
        print_table(record)
    else:
        update_readme(record)


if __name__ == "__main__":
    main()
