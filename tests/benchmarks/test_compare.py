"""The benchmark command from end to end on tiny sizes, and that it refuses to time a wrong result."""

import json

import pytest
import torch

from benchmarks import compare, report, tables
from benchmarks.record import check, print_record
from benchmarks.tables import FORWARD, PASSES
from benchmarks.workload import IMPLEMENTATIONS, Implementation, Workload, make_inputs, ours, step

TINY = [Workload(2, tokens=80, share_s=0.5, dtype=torch.float32, run=run, heads=2, channels=16) for run in PASSES]


@pytest.fixture(scope="module")
def record():
    return compare.run(TINY, budget_s=0.0, with_flex=False)


def test_record_has_every_implementation_of_every_pass(record):
    # As written to disk and read again.
    table = tables.cells(check(json.loads(json.dumps(record))))
    assert len(table) == len(TINY)
    for (_, run, *_), by_name in table.items():
        assert set(by_name) == {i.name for i in IMPLEMENTATIONS if run in i.runs and "Flex" not in i.name}
        assert all(m["seconds"] > 0 and m["rounds"] >= 3 for m in by_name.values())


def test_table_and_plot(record, tmp_path, capsys):
    print_record(record)
    assert "masked" in capsys.readouterr().out
    wide = {**record, "measurements": [{**m, "tokens": 320} for m in record["measurements"]]}
    report.draw(wide, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_baseline_over_ours(record):
    by_name = tables.cells(record)["torch.float32", FORWARD, 80, 2, 0.5]
    (table,) = tables.operator_tables(record)
    row = next(row for row in table.rows if row[1] == FORWARD)
    expected = by_name["masked (paper)"]["seconds"] / by_name["ours"]["seconds"]
    assert row[table.header.index("masked (paper)")] == f"{expected:.2f}x"


@pytest.mark.parametrize("workload", TINY, ids=lambda w: w.run)
def test_a_wrong_result_is_not_timed(workload):
    wrong = Implementation("wrong", lambda x: ours(x) * 1.01)
    with pytest.raises(compare.WrongResultError, match="wrong: result"):
        compare.measure(workload, [wrong], budget_s=0.0)


def test_every_gradient_is_checked():
    workload = TINY[-1]
    inputs = make_inputs(workload)
    for index in range(5):
        results = list(step(IMPLEMENTATIONS[0], inputs))
        results[index] = results[index] * 1.01
        with pytest.raises(compare.WrongResultError, match=f"result {index}"):
            compare.compare_results("off", tuple(results), inputs)


def test_every_image_that_is_checked_counts():
    inputs = make_inputs(TINY[0])
    (out,) = step(IMPLEMENTATIONS[0], inputs)
    out = out.clone()
    out[-1] = 7
    with pytest.raises(compare.WrongResultError, match="result 0"):
        compare.compare_results("last", (out,), inputs)
    with pytest.raises(compare.WrongResultError, match="0 results, expected 1"):
        compare.compare_results("none", (), inputs)
