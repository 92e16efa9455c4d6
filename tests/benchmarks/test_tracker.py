"""The tracker's benchmark from end to end on the smallest preset, and its table."""

import json

from benchmarks import report, tracker


def test_record_and_table(tmp_path):
    record = json.loads(json.dumps(tracker.run(("grm_tiny",), rounds=1, frames=20)))
    assert [m["dtype"] for m in record["measurements"]] == ["float32", "bfloat16"]
    header, rows = report.header(record), report.rows(record)
    assert header[3:8] == ["masked", "separate", "two-stream", "one-stream", "layers fixed"]
    assert all(len(row) == len(header) for row in rows)
    forms = record["measurements"][0]["forms"]
    assert rows[0][3] == f"{forms['masked']['total'] / forms['fused']['total']:.2f}x"
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- tracker benchmark -->\nold\n<!-- end of tracker benchmark -->\nb\n")
    report.update_readme(record, readme)
    text = readme.read_text()
    assert "old" not in text and text.startswith("a\n") and text.endswith("b\n")
    assert rows[1][2] in text
