"""The GPU record's whole path, walked on the CPU, so that it does not fail for a typo on the day a GPU is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_record
from benchmarks.record import ROOT, check, markdown
from benchmarks.tables import PASSES
from benchmarks.workload import Workload, make_inputs

pytest.importorskip("triton")


def test_dry_run_writes_a_complete_record(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_record", "--dry", "--output", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["complete"] and record["dry"]
    assert [name for name, step in record["steps"].items() if step["ok"]] == ["build", "tests", "measurements"]
    failed = [m for m in record["measurements"] if "error" in m]
    assert not failed
    for run in PASSES:
        (triton,) = (m for m in record["measurements"] if m["run"] == run and m["implementation"] == "ours, triton")
        assert triton["seconds"] > 0 and triton["flops"] > 0 and triton["share_of_floor"] > 0
    lines = markdown(check(record)).splitlines()
    assert len(lines[0].split("|")) == len(lines[2].split("|"))


def test_a_run_that_is_cut_off_leaves_what_it_had(tmp_path):
    record = gpu_record.Record(tmp_path / "record.json", dry=True, budget_s=-1.0)
    record.step("broken", lambda: 1 / 0)
    record.data["rates"] = gpu_record.rates(dry=True)
    record.step("measurements", lambda: gpu_record.measure_all(record))
    data = json.loads((tmp_path / "record.json").read_text())
    assert not data["complete"] and data["measurements"] == []
    assert data["steps"]["broken"]["ok"] is False
    assert "ZeroDivisionError" in data["steps"]["broken"]["error"]


def test_floors_by_hand():
    """2 images of 80 tokens, 64 of them T and 8 S: 1024 blocked pairs of 6400 in each head."""
    for run, products in zip(PASSES, (2 * 5376, 7 * 5376, 7 * 5376 + 2 * 1024), strict=True):
        workload = Workload(2, tokens=80, run=run, heads=3, channels=16)
        floors = gpu_record.floors(workload, make_inputs(workload), matrix_rate=1e9, memory_rate=1e6)
        assert floors["floor_operations_s"] == pytest.approx(2 * 3 * 2 * 16 * products / 1e9)
        tensors = 4 if run == PASSES[0] else 12
        assert floors["floor_bytes_s"] == pytest.approx(tensors * 2 * 3 * 80 * 16 * 4 / 1e6)


@pytest.mark.parametrize(("file", "selection"), gpu_record.SANITIZED, ids=lambda value: Path(value).stem)
def test_what_the_sanitizer_runs_exists(file, selection):
    """A selection that names no test would end with an error on the day a GPU is there."""
    selection = selection.replace("gpu-", "emulator-")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", selection, file]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "33" in result.stdout, result.stdout


def test_conformance_output_is_read():
    output = "ballot 0000000a ffffffff\nexp2 3f800000\n"
    assert gpu_record.parse_conformance(output) == {"ballot": [10, 2**32 - 1], "exp2": [0x3F800000]}


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_record"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_:
        gpu_record.main()
    assert exit_.value.code == 2
    assert "no CUDA device; --dry walks the path without one" in capsys.readouterr().err
