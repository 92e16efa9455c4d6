"""The tracker's benchmark from end to end on the smallest preset, and its table."""

import json

from benchmarks import tables, tracker
from benchmarks.record import check


def test_record_and_table():
    record = check(json.loads(json.dumps(tracker.run(("grm_tiny",), rounds=1, frames=20))))
    assert [m["dtype"] for m in record["measurements"]] == ["float32", "bfloat16"]
    (table,) = tables.tracker_tables(record)
    header, rows = table.header, table.rows
    assert header[3:8] == ["masked", "separate", "two-stream", "one-stream", "layers fixed"]
    assert all(len(row) == len(header) for row in rows)
    forms = record["measurements"][0]["forms"]
    assert rows[0][3] == f"{forms['masked']['total'] / forms['fused']['total']:.2f}x"
