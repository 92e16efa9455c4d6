"""Documents and plots from records: ``python -m benchmarks.report`` renders every block of README.md and docs/ anew.

With a record, only that it is checked, and its blocks; ``--print RECORD`` prints its tables instead. A block is what
stands between ``<!-- benchmark: NAME -->`` and ``<!-- end of benchmark: NAME -->``, where NAME is that of a record in
benchmarks/results.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import record, tables


def draw(record: dict, path: Path) -> None:
    """Bars of forward time at B = 8 (or the largest) and N = 320 by share of S, a panel for each dtype, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = {key: value for key, value in tables.cells(record).items() if key[1] == tables.FORWARD and key[2] == 320}
    batches = {key[3] for key in table}
    batch = 8 if 8 in batches else max(batches)
    dtypes = list(dict.fromkeys(key[0] for key in table))
    names = list(dict.fromkeys(m["implementation"] for m in record["measurements"]))
    width = 0.8 / len(names)
    figure, axes = plt.subplots(1, len(dtypes), figsize=(7 * len(dtypes), 4.5), squeeze=False, layout="constrained")
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        shares = sorted(key[4] for key in table if key[0] == dtype and key[3] == batch)
        for index, name in enumerate(names):
            by_share = [table[dtype, tables.FORWARD, 320, batch, share].get(name) for share in shares]
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


def main() -> int:
    """Renders blocks, or prints a record; 1 if there is nothing to do it with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, nargs="?", help="a record; by default all that the documents name")
    parser.add_argument("--print", action="store_true", help="only print its tables")
    options = parser.parse_args()
    if options.print and options.record is None:
        parser.error("--print: expected a record")
    try:
        if options.record:
            read = record.read(options.record)
        if options.print:
            record.print_record(read)
            return 0
        names = record.update(record.documents())
    except (record.RecordError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    if options.record and options.record.stem not in names and read["kind"] not in names:
        print(f"benchmarks.report: no document has a block for {options.record.stem}", file=sys.stderr)
        return 1
    print(f"rendered: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
