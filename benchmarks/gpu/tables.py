"""Tables of a GPU's record: the operator, the tracker, a training step."""

from benchmarks.tables import RATIOS, Table, frames, machine_of, milliseconds, operator_tables, rates_of, times


def gpu_tables(record: dict) -> list[Table]:
    """The operator; the tracker and the training step, where they were measured."""
    tables = operator_tables(record)
    measured = [row for row in record["tracker"] if "forms" in row]
    if measured:
        forms = list(dict.fromkeys(form for row in measured for form in row["forms"]))
        others = forms[1:]
        rows = []
        for row in measured:
            seconds = row["forms"][forms[0]]["seconds"]
            ratios = [row["forms"][f]["seconds"] / seconds if f in row["forms"] else None for f in others]
            launches = f"{row['forms'][forms[0]]['launches']}"
            rows.append(
                [row["preset"], row["mode"], f"{row['targets']}", frames(seconds, row["targets"]), launches]
                + [times(ratio) for ratio in ratios]
            )
        header = ["model", "mode", "targets", "a frame", "launches", *others]
        tables.append(Table(header, rows, f"The tracker, {measured[0]['dtype']}"))
    steps = [row for row in record["training"] if "seconds" in row]
    if steps:
        fused = {(r["preset"], r["precision"]): r for r in steps if r["form"] == "fused"}
        rows = []
        for row in steps:
            own = fused.get((row["preset"], row["precision"]))
            ratio = None if own is None else row["seconds"] / own["seconds"]
            peak = f"{row['peak_bytes'] / 2**20:,.0f} MiB" if row.get("peak_bytes") else "n/a"
            rows.append(
                [
                    row["preset"],
                    f"{row['batch']}",
                    row["precision"],
                    row["form"],
                    milliseconds(row["seconds"]),
                    times(ratio),
                    peak,
                ]
            )
        header = ["model", "B", "dtype", "attention", "step", "over fused", "peak memory"]
        tables.append(Table(header, rows, "A training step"))
    return tables


def gpu_caption(record: dict) -> str:
    """The device, its rates, what the columns are, and what did not run."""
    matrix = {name: rate for name, rate in record["rates"].items() if name.startswith("torch.")}
    failed = [name for name, step in record["steps"].items() if not step["ok"]]
    exponentials = record["rates"].get("exponentials")
    return (
        f"{machine_of(record)}; {rates_of(record, matrix, record['rates'].get('memory'))} {RATIOS} "
        "`of the floor`: the largest of bytes over memory rate, operations over matrix rate and exponentials over "
        f"their rate{'' if exponentials is None else f' ({exponentials / 1e9:,.0f} G/s)'}, over our time."
        + (f" Failed: {', '.join(failed)}." if failed else "")
        + ("" if record.get("complete") else " The record is not complete.")
    )
