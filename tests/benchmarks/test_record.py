"""Records of every kind: read, checked and rendered; and documents that say what the records say."""

import json
import subprocess
import sys

import pytest

from benchmarks import record, report, tables

RESULTS = sorted(record.RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_recorded_result_is_shown(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", "--print", str(path)])
    assert report.main() == 0
    read = record.read(path)
    for table in record.KINDS[read["kind"]].render(read):
        assert table.rows and {len(row) for row in table.rows} == {len(table.header)}
    assert read["date"] in capsys.readouterr().out


@pytest.mark.parametrize("path", record.documents(), ids=lambda path: path.name)
def test_documents_say_what_the_records_say(path):
    """`python -m benchmarks.report` renders the blocks anew."""
    text = path.read_text()
    for name, block in record.blocks(text).items():
        assert block == record.block(name), name
    assert text.count("<!-- benchmark: ") == text.count("<!-- end of benchmark: ") == len(record.blocks(text))


def test_every_processor_has_a_block():
    """A record that no document shows is one that nobody sees; the longer ones are named in the text."""
    text = "".join(path.read_text() for path in record.documents())
    shown = {name for path in record.documents() for name in record.blocks(path.read_text())}
    for path in RESULTS:
        gpu = record.read(path)["kind"] == "gpu"
        assert path.stem in shown or path.stem in text or (gpu and "gpu" in shown), path.stem


def test_blocks_are_replaced_between_their_markers(tmp_path, monkeypatch):
    name = RESULTS[0].stem
    document = tmp_path / "README.md"
    document.write_text(f"before\n<!-- benchmark: {name} -->\nold\n<!-- end of benchmark: {name} -->\nafter\n")
    assert record.update([document]) == [name]
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert record.blocks(text) == {name: record.markdown(record.read(RESULTS[0])) + "\n"}
    document.write_text("<!-- benchmark: nothing -->\n<!-- end of benchmark: nothing -->\n")
    with pytest.raises(record.RecordError, match="nothing: expected one of summary, gpu, or the name of a record"):
        record.update([document])


def planted(changes: dict) -> dict:
    good = json.loads((record.RESULTS / f"{record.SUMMARY['operator']}.json").read_text())
    return {key: value for key, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gpus"}, r"kind: expected one of 'cpu', .*, got 'gpus'"),
        ({"kind": None}, "kind: expected one of .*, got None"),
        ({"machine": None}, "machine: expected dict, got nothing"),
        ({"memory_rate": "fast"}, "memory_rate: expected float, got str"),
        ({"measurements": [{"implementation": "ours"}]}, r"measurements\[0\]: expected dtype, run, .*lacks"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, changes, message):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(planted(changes)))
    with pytest.raises(record.RecordError, match=f"record.json: {message}"):
        record.read(path)
    with pytest.raises(record.RecordError, match=message):
        record.write(planted(changes), tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_command_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.json").write_text("{")
    for name, message in (("broken.json", "expected JSON"), ("missing.json", "No such file")):
        monkeypatch.setattr(sys, "argv", ["report", "--print", str(tmp_path / name)])
        assert report.main() == 1
        assert message in (error := capsys.readouterr().err) and name in error
    good = tmp_path / "good.json"
    record.write(planted({}), good)
    monkeypatch.setattr(record, "documents", lambda: [])
    monkeypatch.setattr(sys, "argv", ["report", str(good)])
    assert report.main() == 1 and "no document has a block for good" in capsys.readouterr().err


def test_a_record_of_other_sources_is_stale():
    fresh = planted({})
    fresh["machine"]["sources"] = record.source_hash()
    assert not record.is_stale(fresh)
    fresh["machine"]["sources"] = "0"
    assert record.is_stale(fresh)


def test_a_dense_baseline_counts_for_every_share_of_s():
    """It was measured once for each N, B and pass; with the policy's gradient the pass backward counts."""
    common = {"dtype": "bfloat16", "tokens": 320, "batch": 8}
    measurements = [
        common | {"implementation": "dense", "run": tables.FORWARD, "share_s": 0.5, "seconds": 1.0, "exact": False},
        common | {"implementation": "dense", "run": tables.BACKWARD, "share_s": 0.5, "seconds": 3.0, "exact": False},
        common | {"implementation": "mask", "run": tables.FORWARD, "share_s": 0.5, "seconds": 9.0, "exact": True},
        common | {"implementation": "ours", "run": tables.FORWARD, "share_s": 1.0, "seconds": 0.5},
        common | {"implementation": "ours", "run": tables.POLICY, "share_s": 0.0, "seconds": 2.0},
        common | {"implementation": "ours", "run": tables.POLICY, "share_s": 0.5, "error": "no"},
    ]
    table = tables.cells({"measurements": measurements})
    assert {name: m["seconds"] for name, m in table["bfloat16", tables.FORWARD, 320, 8, 1.0].items()} == {
        "ours": 0.5,
        "dense": 1.0,
    }
    assert table["bfloat16", tables.POLICY, 320, 8, 0.0]["dense"]["seconds"] == 3.0
    assert ("bfloat16", tables.POLICY, 320, 8, 0.5) not in table


def test_records_are_read_without_torch():
    code = "import sys, benchmarks.record as r; r.read(next(r.RESULTS.glob('*.json'))); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=record.ROOT, text=True).split() == ["False"]
