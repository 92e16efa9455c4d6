"""The survey of sizes and the benchmark of busy machines, on tiny sizes."""

import json
import sys

import pytest
import torch

from benchmarks import busy, compare, survey

SIZES = [(2, 2, 8, 16), (1, 1, 40, 12)]


@pytest.fixture(scope="module")
def record():
    return survey.run(survey.workloads(SIZES), budget_s=0.0, with_flex=False)


def test_every_cell_is_measured(record):
    rows = survey.rows(json.loads(json.dumps(record)))
    assert len(rows) == len(SIZES) * len(survey.DTYPES) * 2 * len(survey.thread_counts())
    assert all(set(row["ratios"]) == {"SDPA, dense", "SDPA, boolean mask"} for row in rows)
    assert record["machine"]["instruction_sets"]


def test_the_worst_stands_first(record, capsys):
    measurements = []
    for m in record["measurements"]:
        # Made up, so that one cell is below 1 and the others are not.
        slow = m["tokens"] == 40 and m["dtype"] == "torch.bfloat16" and m["run"] == "forward" and m["threads"] == 1
        measurements.append({**m, "seconds": 1.0 if m["implementation"] != "ours" else 2.0 if slow else 0.5})
    made_up = {**record, "measurements": measurements}
    rows = survey.rows(made_up)
    assert (rows[0]["tokens"], rows[0]["dtype"]) == (40, "torch.bfloat16")
    assert [min(row["ratios"].values()) for row in rows] == [0.5] + [2.0] * (len(rows) - 1)
    survey.print_tables(made_up)
    out = capsys.readouterr().out
    assert out.index(f"Below 1.0 (1 of {len(rows)} cells)") < out.index("At least 1.0")


def test_threads_are_as_before():
    before = torch.get_num_threads()
    survey.run(survey.workloads(SIZES[:1])[:1], budget_s=0.0, with_flex=False)
    assert torch.get_num_threads() == before


def test_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(survey, "workloads", lambda sizes=SIZES[:1], original=survey.workloads: original(sizes))
    monkeypatch.setattr(
        sys, "argv", ["compare", "--survey", "--no-flex", "--budget", "0.001", "--output", str(tmp_path)]
    )
    compare.main()
    assert json.loads((tmp_path / "survey_cpu.json").read_text())["kind"] == "survey"
    assert "survey_cpu.json" in capsys.readouterr().out


@pytest.mark.slow
def test_a_busy_machine():
    result = busy.measure("passive", 1, 0.2, 2, "float32")
    assert result["frames"] > 0
    assert result["policy"] == "passive"
    assert 0 < result["median_s"] <= result["slowest_s"]
