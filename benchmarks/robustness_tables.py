"""The table of a record of `benchmarks.robustness`."""

from benchmarks.tables import Table, machine_of


def robustness_tables(record: dict) -> list[Table]:
    """A row for each thing that goes wrong."""
    header = [
        "what goes wrong",
        "AO",
        "against the first row",
        "lost",
        "found again",
        "ROC AUC",
        "held, called lost",
        "not held, called lost",
    ]
    rows = []
    for number, (name, case) in enumerate(record["cases"].items()):
        error = case["standard_error"]
        gap = f"{case['difference']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
        rows.append(
            [
                name,
                f"{case['ao']:.3f}",
                gap if number else "",
                f"{case['lost']}",
                f"{case['found_again']}",
                "" if case["auc"] is None else f"{case['auc']:.2f}",
                *("" if share is None else f"{share:.0%}" for share in map(case["called_lost"].get, ("held", "other"))),
            ]
        )
    return [Table(header, rows)]


def robustness_caption(record: dict) -> str:
    """What was measured, on what, and what the columns are."""
    bounds = record["bounds"]
    return (
        f"Weights {record['weights']}, {record['dtype']}, {machine_of(record)}, {record['date']}. The first "
        f"{record['sequences']} held-out synthetic sequences in every row, 80 frames each before any is lost. AO: mean "
        "over sequences of the mean overlap in the frames after the first in which the target is in sight; ± one "
        "standard error of the paired difference. Lost: sequences with five such frames in a row below 0.1; found "
        "again: those of them with an overlap above a half later. Held: in sight, and overlapped by more than half. "
        "ROC AUC: of the running mean of the scores, telling held frames from the others. Called lost: a running mean "
        f"below {bounds['lost_below']}, the bound of these weights."
    )
