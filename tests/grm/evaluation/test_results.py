"""Results on disk: what counts as finished, and what is read of other tools' folders."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import grm
from grm.config import load_config
from grm.data.readers.folder import folder
from grm.errors import DataError
from grm.evaluation import identity as sources
from grm.evaluation import results as results_module
from grm.evaluation.identity import code_hash, data_settings, run_identity, weights_hash
from grm.evaluation.results import Results, RunFolder, read_run
from grm.model import GRM

from ..data.trees import write_folder
from .scenes import Clip, trajectory

IDENTITY = {"benchmark": "folder", "weights": "abc", "configuration": {"threshold": 0.4}}
CLIP = Clip("clip")


@pytest.fixture
def run(tmp_path):
    """A run with one sequence finished."""
    run = RunFolder(tmp_path / "run", IDENTITY, {"tracker": "ours", "root": "/data"})
    run.write(CLIP, trajectory(CLIP, shift=0.12345))
    return run


def test_what_was_written_is_read(run):
    assert run.is_finished(CLIP) and not run.is_finished(Clip("other"))
    results = Results(run.folder)
    assert results.names == ["clip"] and results.label == "ours"
    np.testing.assert_allclose(results.boxes("clip")[0], trajectory(CLIP, 0.12345).boxes, rtol=0, atol=5e-5)
    assert results.scores("clip", 6).tolist()[1:] == [0.75] * 5
    assert results.speed("clip") == (5, 2.5)
    assert read_run(run.folder)["identity"] == IDENTITY and read_run(run.folder)["root"] == "/data"
    first = (run.folder / "clip.txt").read_text().splitlines()[0]
    assert first == "5.0000,6.0000,20.0000,16.0000"


def test_an_interrupted_run_goes_on(run):
    again = RunFolder(run.folder, IDENTITY)
    assert again.is_finished(CLIP)
    assert again.hash == run.hash


@pytest.mark.parametrize("file", ["clip.txt", "scores/clip.txt", "times/clip.txt", "finished/clip.json"])
def test_what_was_cut_short_changed_or_lost_is_not_finished(run, file):
    whole = (run.folder / file).read_text()
    for content in (whole[:-3], whole.replace("5", "6", 1), ""):
        (run.folder / file).write_text(content)
        assert not run.is_finished(CLIP)
    (run.folder / file).unlink()
    assert not run.is_finished(CLIP)


def test_another_video_of_the_same_name_is_not_finished(run):
    assert not run.is_finished(Clip("clip", count=7))
    assert not run.is_finished(Clip("clip", start=6))


def test_another_runs_results_are_not_taken_for_this_ones(run, tmp_path):
    other = RunFolder(tmp_path / "other", IDENTITY | {"weights": "xyz"}, {"tracker": "other"})
    for part in (".", "scores", "times"):
        shutil.copy(run.folder / part / "clip.txt", other.folder / part / "clip.txt")
    with pytest.raises(DataError, match=r"other: holds no results"):
        Results(other.folder)
    shutil.copy(run.folder / "finished" / "clip.json", other.folder / "finished" / "clip.json")
    assert not other.is_finished(CLIP)
    with pytest.raises(DataError, match=r"clip.txt: is not of the run that .*run.json describes"):
        Results(other.folder).boxes("clip")
    (run.folder / "clip.txt").write_text("1,2,3,4\n")
    with pytest.raises(DataError, match=r"clip.txt: is missing, or was changed"):
        Results(run.folder).boxes("clip")


def test_folders_of_something_else_are_refused(run, tmp_path):
    changed = {"benchmark": "folder", "weights": "abc", "configuration": {"threshold": None}, "dtype": "float16"}
    with pytest.raises(DataError, match=r"run: holds another run: configuration, dtype differ; give another folder"):
        RunFolder(run.folder, changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "clip.txt").write_text("1,2,3,4\n")
    with pytest.raises(DataError, match="full: expected an empty or new folder"):
        RunFolder(tmp_path / "full", IDENTITY)
    for text in ("{", "[]", json.dumps({"format": 99, "identity": {}})):
        (run.folder / "run.json").write_text(text)
        with pytest.raises(DataError, match=r"run\.json"):
            RunFolder(run.folder, IDENTITY)
    with pytest.raises(DataError, match=r"run.json: missing"):
        read_run(tmp_path / "full")


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "a\\b"])
def test_names_that_leave_the_folder(run, name):
    with pytest.raises(DataError, match="cannot be that of a file"):
        run.write(Clip(name), trajectory(CLIP))


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_flat_results_of_other_tools(tmp_path, separator, end):
    """pytracking, and the plain text that papers give."""
    rows = [[1, 2, 3, 4], [1.5, 2.25, 3, 4], [float("nan")] * 4]
    text = end.join(separator.join(f"{value:g}" for value in row) for row in rows) + end
    (tmp_path / "bike1.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "bike1_time.txt").write_text("0.5\n0.25\n0\n")
    (tmp_path / "bike1_object_presence_scores.txt").write_text("1\n1\n1\n")
    (tmp_path / "nfs_car.txt").write_text("1 2 3 4\n")
    (tmp_path / "._bike1.txt").write_bytes(b"\x00\x05\x16\x07")
    results = Results(tmp_path, "theirs")
    assert results.names == ["bike1", "nfs_car"] and results.label == "theirs"
    np.testing.assert_array_equal(results.boxes("bike1")[0], rows)
    assert results.speed("bike1") == (2, 0.75) and results.speed("nfs_car") is None
    assert results.scores("bike1", 4) is None
    assert results.find("car", "nfs_") == "nfs_car" and results.find("bike1", "nfs_") == "bike1"
    assert results.find("plane", "nfs_") is None


def test_results_of_got10ks_toolkit(tmp_path):
    for repetition in (1, 2, 3):
        path = tmp_path / "tracker" / "GOT-10k_Val_000001" / f"GOT-10k_Val_000001_00{repetition}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{repetition},2,3,4\n5,6,7,8\n")
    (path.parent / "GOT-10k_Val_000001_time.txt").write_text("0.1,0.2,0.1\n0.3,0.2,0.1\n")
    results = Results(tmp_path / "tracker")
    assert results.names == ["GOT-10k_Val_000001"] and results.label == "tracker"
    assert [boxes[0, 0] for boxes in results.boxes("GOT-10k_Val_000001")] == [1, 2, 3]
    assert results.speed("GOT-10k_Val_000001") == (6, pytest.approx(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no numbers"),
        ("1,2,3,4\n\n1,2,3,4\n", "holds an empty line"),
        ("1,2,3\n", "expected 4 numbers in every line, got 3"),
        ("1,2,3,4\n1,2,3\n", "expected 4 numbers in every line"),
        ("1,2,3,x\n", "expected 4 numbers in every line"),
    ],
)
def test_broken_results(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=rf"a\.txt: {message}"):
        Results(tmp_path).boxes("a")


def test_folders_without_results(tmp_path):
    with pytest.raises(DataError, match="holds no results"):
        Results(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        Results(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="expected a folder"):
        Results(tmp_path / "file")


def test_sources_that_boxes_depend_on_import_nothing_else():
    """What decides no box: errors, files, logs; and configurations, which are in the identity by their values."""
    harmless = {"grm.config", "grm.errors", "grm.files", "grm.devices", "grm.weights"}
    others = set()
    for source in sources._SOURCES:
        for path in sources._files(source):
            if path.suffix != ".py" or not source.startswith("grm."):
                continue
            parts = list(path.relative_to(Path(grm.__file__).parents[1]).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    base = ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
                    names = [base] if node.module else [f"{base}.{alias.name}" for alias in node.names]
                    others |= {name for name in names if not name.startswith((*sources._SOURCES, *harmless))}
    # A package's own file collects names of its modules; results are where boxes go.
    assert others - {"grm.data", "grm.evaluation.results"} == set()


def test_identity_is_of_weights_configuration_and_code():
    def identity(model, **changes):
        return run_identity(model, **({"benchmark": "lasot", "device": "cpu", "dtype": torch.float32} | changes))

    config = load_config("grm_tiny").model
    torch.manual_seed(0)
    model = GRM(config).eval()
    torch.manual_seed(0)
    same = GRM(config).eval()
    assert identity(model) == identity(same) and code_hash()[:16] in identity(model)["code"]
    json.dumps(identity(model))
    with torch.no_grad():
        next(same.parameters()).flatten()[0] += 1e-6
    assert weights_hash(same) != weights_hash(model)
    threshold = load_config("grm_tiny", ["model.division.threshold=0.4"]).model
    torch.manual_seed(0)
    changed = GRM(threshold).eval()
    assert weights_hash(changed) == weights_hash(model) and identity(changed) != identity(model)
    for change in ({"benchmark": "nfs30"}, {"dtype": torch.bfloat16}, {"settings": {"frames": 3}}):
        assert identity(model, **change) != identity(model)


def test_other_frames_of_the_same_annotation_are_not_finished(tmp_path):
    """As of a span that was one image off."""
    write_folder(tmp_path / "clip", count=5)
    (sequence,) = folder(tmp_path / "clip", "", None)
    run = RunFolder(tmp_path / "run", IDENTITY)
    run.write(sequence, trajectory(sequence))
    assert run.is_finished(folder(tmp_path / "clip", "", None)[0])
    images = sorted(path for path in (tmp_path / "clip").iterdir() if path.suffix == ".jpg")
    images[-1].rename(images[-1].with_stem("99999999"))
    assert not run.is_finished(folder(tmp_path / "clip", "", None)[0])


def test_a_process_that_begins_while_another_does(tmp_path, monkeypatch):
    """It looked for run.json before the other wrote it, and lists the folder afterwards."""
    look, looked = results_module._read_run, []

    def first_too_early(folder):
        looked.append(folder)
        return look(folder) if len(looked) > 1 else None

    RunFolder(tmp_path, IDENTITY)
    monkeypatch.setattr(results_module, "_read_run", first_too_early)
    RunFolder(tmp_path, IDENTITY)
    looked.clear()
    with pytest.raises(DataError, match="holds another run: weights differ"):
        RunFolder(tmp_path, IDENTITY | {"weights": "xyz"})


def test_brackets_in_the_names_of_got10k(tmp_path):
    (tmp_path / "clip[1]").mkdir()
    (tmp_path / "clip[1]" / "clip[1]_001.txt").write_text("1,2,3,4\n")
    assert Results(tmp_path).names == ["clip[1]"]


def test_plain_folders_are_told_apart_by_where_they_are(tmp_path):
    assert data_settings("folder", tmp_path / "a", None) != data_settings("folder", tmp_path / "b", None)
    assert data_settings("lasot", tmp_path / "a", None) == data_settings("lasot", tmp_path / "b", None) == {}
