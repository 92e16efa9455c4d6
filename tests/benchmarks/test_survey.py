"""The survey of sizes and the benchmark of busy machines, on tiny sizes."""

import argparse
import json
import sys

import pytest
import torch

from benchmarks import busy, compare, record, survey, survey_tables

SIZES = [(2, 2, 8, 16), (1, 1, 40, 12)]


@pytest.fixture(scope="module")
def surveyed():
    return survey.run(survey.workloads(SIZES), budget_s=0.0, with_flex=False)


def test_every_cell_is_measured(surveyed):
    rows = survey_tables.rows(json.loads(json.dumps(surveyed)))
    assert len(rows) == len(SIZES) * len(survey.DTYPES) * 2 * len(survey.thread_counts())
    assert all(set(row["ratios"]) == {"SDPA, dense", "SDPA, boolean mask"} for row in rows)
    assert surveyed["machine"]["instruction_sets"]


def test_the_worst_stands_first(surveyed, capsys):
    measurements = []
    for m in surveyed["measurements"]:
        # Made up, so that one cell is below 1 and the others are not.
        slow = m["tokens"] == 40 and m["dtype"] == "torch.bfloat16" and m["run"] == "forward" and m["threads"] == 1
        measurements.append({**m, "seconds": 1.0 if m["implementation"] != "ours" else 2.0 if slow else 0.5})
    made_up = {**surveyed, "measurements": measurements}
    rows = survey_tables.rows(made_up)
    assert (rows[0]["tokens"], rows[0]["dtype"]) == (40, "torch.bfloat16")
    assert [min(row["ratios"].values()) for row in rows] == [0.5] + [2.0] * (len(rows) - 1)
    record.print_record(made_up)
    out = capsys.readouterr().out
    assert out.index(f"Below 1.0 (1 of {len(rows)} cells)") < out.index("At least 1.0")


def test_parts_make_the_whole(surveyed, tmp_path):
    cells = survey.workloads(SIZES)
    parts = [survey.part_of(cells, (i, 3)) for i in (1, 2, 3)]
    assert sorted(repr(cell) for part in parts for cell in part) == sorted(map(repr, cells))
    halves = [{**surveyed, "measurements": surveyed["measurements"][i::2]} for i in (0, 1)]
    both = survey.joined(*halves)
    assert survey_tables.rows(both) == survey_tables.rows(surveyed)
    assert survey.joined(both, halves[0]) == both
    elsewhere = {**halves[1], "machine": {**surveyed["machine"], "processor": "another"}}
    with pytest.raises(record.RecordError, match="machine: expected processor of the parts to be the same, got"):
        survey.joined(halves[0], elsewhere)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b"])
def test_a_part_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/K"):
        compare.part(text)


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
    path = tmp_path / "survey_cpu.json"
    cells = survey_tables.rows(record.read(path))
    assert "survey_cpu.json" in capsys.readouterr().out
    # A part of it again, which takes the place of what was measured.
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--part", "1/2"])
    compare.main()
    assert len(survey_tables.rows(record.read(path))) == len(cells)


@pytest.mark.slow
def test_a_busy_machine():
    result = busy.measure("passive", 1, 0.2, 2, "float32")
    assert result["frames"] > 0
    assert result["policy"] == "passive"
    assert 0 < result["median_s"] <= result["slowest_s"]


def test_a_record_of_a_busy_machine(surveyed, capsys):
    measurement = {"policy": None, "busy": 2, "threads": 2, "frames": 3, "median_s": 0.05, "slowest_s": 0.5}
    made_up = {key: surveyed[key] for key in ("date", "machine", "load_before")}
    made_up |= {"kind": "busy", "dtype": "float32", "measurements": [measurement]}
    (table,) = record.KINDS["busy"].render(record.check(made_up))
    assert table.rows == [["2", "2", "as OpenMP has it", "20.00", "500 ms"]]
    record.print_record(made_up)
    assert made_up["date"] in capsys.readouterr().out
