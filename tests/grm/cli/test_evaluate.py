"""`grm evaluate`, `grm report` and `grm submit`, from data sets on disk to tables and files."""

import json
import zipfile

import numpy as np
import pytest

from grm.cli.evaluate import NAMES
from grm.config import load_config
from grm.evaluation.benchmarks import BENCHMARKS, find_benchmark, published_threshold
from grm.evaluation.results import Results, read_run
from grm.model import load_model

from ..data.trees import write_boxes, write_folder, write_trackingnet
from ..evaluation.trees import write_lasot_extension

QUICK = ("--device", "cpu", "--threads", 1)


def table(out):
    """Rows of the printed table, by tracker."""
    lines = [line.split() for line in out.splitlines() if line.strip()]
    return {line[0]: line[1:] for line in lines}


def test_bounds_are_measured_and_kept(grm, tmp_path):
    """A run on rendered video, its bounds, and a track that says what they mean."""
    run, output = tmp_path / "run", tmp_path / "weights.safetensors"
    rendered = [f"data.synthetic.{key}" for key in ("frames=40", "absences=[1, 1]", "width=160", "height=120")]
    sets = [x for key in rendered for x in ("--set", key)]
    assert grm("evaluate", "synthetic", "--limit", 2, *sets, "--output", run, *QUICK)[0] == 0
    status, out, err = grm("bounds", run, "--output", output)
    assert status == 0, err
    assert out.startswith("running mean of nano's score: ROC AUC") and "weights with these bounds" in err
    bounds = load_model(output).config.certainty
    assert f"lost below {bounds.lost_below:.2f}, held from {bounds.held_from:.2f}" in out
    status, _, err = grm("bounds", run, "--output", tmp_path / "weights.pt")
    assert status == 1 and "expected a .safetensors file to write" in err


def test_attributes_that_a_data_set_has(grm, tmp_path):
    """Of LaSOT's flags, without a file of the user's; and the user's, where there is one."""
    names = write_lasot_extension(tmp_path / "data")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in names:
        np.savetxt(flat / f"{name}.txt", np.full((5, 4), 20.0), delimiter=",")
    command = ("report", flat, "--benchmark", "lasot-extension", "--root", tmp_path / "data")
    status, out, _ = grm(*command)
    assert status == 0 and table(out)["OV"][0] == "2" and "FOC" not in table(out)
    (tmp_path / "mine.txt").write_text("atv-1,fast\n")
    status, out, _ = grm(*command, "--attributes", tmp_path / "mine.txt")
    assert status == 0 and table(out)["fast"][0] == "1" and "OV" not in table(out)


def test_names_are_those_of_the_benchmarks():
    assert tuple(BENCHMARKS) == NAMES


def test_evaluate_and_report(grm, tmp_path):
    """Two runs of the same weights; the second goes on where it was stopped, and a report compares it with another."""
    run, page = tmp_path / "run", tmp_path / "report.html"
    for name in ("one", "two"):
        write_folder(tmp_path / "data" / name, count=5)
    command = ("evaluate", "folder", "--root", tmp_path / "data", "--output", run, *QUICK)
    status, out, err = grm(*command)
    assert status == 0 and "results of 2 of 2 sequences" in err
    first = table(out)["nano"]
    name = Results(run).names[0]
    boxes = (run / f"{name}.txt").read_bytes()
    written = (run / f"{Results(run).names[1]}.txt").stat().st_mtime_ns
    (run / f"{name}.txt").unlink()
    status, out, err = grm(*command)
    assert status == 0 and table(out)["nano"][:5] == first[:5]
    assert (run / f"{name}.txt").read_bytes() == boxes
    assert (run / f"{Results(run).names[1]}.txt").stat().st_mtime_ns == written

    status, out, err = grm(*command, "--threshold", 0.4)
    assert status == 1 and "holds another run: configuration differ; give another folder" in err

    still = tmp_path / "still"
    still.mkdir()
    for name in Results(run).names:
        boxes = np.loadtxt(run / f"{name}.txt", delimiter=",")
        np.savetxt(still / f"{name}.txt", np.repeat(boxes[:1], len(boxes), 0), delimiter="\t", fmt="%d")
    outputs = (
        "--html",
        page,
        "--json",
        tmp_path / "a.json",
        "--csv",
        tmp_path / "a.csv",
        "--markdown",
        tmp_path / "a.md",
    )
    both = ("--protocol", "all-frames", "--protocol", "valid-frames")
    status, out, err = grm("report", run, f"unmoved={still}", *both, *outputs, "--by-sequence", 1, "--frames", 1)
    assert status == 0, err
    assert "folder, all-frames, 2 sequences" in out and "folder, valid-frames, 2 sequences" in out
    assert {"nano", "unmoved"} < set(table(out)) and "standard error" in err
    values = json.loads((tmp_path / "a.json").read_text())
    assert [(v["protocol"], [t["label"] for t in v["trackers"]]) for v in values] == [
        ("all-frames", ["nano", "unmoved"]),
        ("valid-frames", ["nano", "unmoved"]),
    ]
    assert f"{100 * values[0]['trackers'][0]['figures']['AUC']:.1f}" == first[0]
    assert page.read_text().count("<img ") == 7 and "unmoved" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "a.csv").read_text().startswith("benchmark,protocol,tracker,sequence,figure,value\n")


def test_a_sequence_that_fails(grm, tmp_path):
    for name in ("good", "bad"):
        write_folder(tmp_path / "data" / name, count=4)
    (tmp_path / "data" / "bad" / "00000003.jpg").write_bytes(b"")
    run = tmp_path / "run"
    status, out, err = grm("evaluate", "folder", "--root", tmp_path / "data", "--output", run, *QUICK)
    assert status == 1
    assert "results of 1 of 2 sequences" in err and "failed: bad: " in err and "00000003.jpg: not an image" in err
    assert "folder, all-frames, 1 of 2 sequences" in out and read_run(run)["root"] == str(tmp_path / "data")


def test_a_folder_with_the_first_box_alone_has_no_figures(grm, tmp_path):
    """It is tracked, and nothing is made up of it."""
    write_folder(tmp_path / "data" / "clip", count=4)
    write_boxes(tmp_path / "data" / "clip" / "groundtruth.txt", [[5, 6, 20, 18]])
    run = tmp_path / "run"
    status, out, err = grm("evaluate", "folder", "--root", tmp_path / "data", "--output", run, *QUICK)
    assert status == 1 and not out and Results(run).names == ["clip"]
    assert "clip: only the first frame has a box" in err and "results of 1 of 1 sequences" in err
    status, out, err = grm("failures", run)
    assert status == 1 and "clip: only the first frame has a box" in err


def test_restarts(grm, tmp_path):
    write_folder(tmp_path / "data" / "clip", count=20)
    command = ("evaluate", "folder", "--root", tmp_path / "data", "--protocol", "restarts")
    status, out, err = grm(*command, "--output", tmp_path / "run", *QUICK)
    assert status == 0 and "folder, restarts, 1 sequence " in out and "accuracy  failures" in out
    status, again, _ = grm("report", tmp_path / "run", "--html", tmp_path / "a.html")
    assert status == 0 and out.split() == again.split()
    status, out, err = grm("report", tmp_path / "run", "--protocol", "all-frames")
    assert status == 1 and "was run with restarts" in err


def test_under_torchrun_each_process_has_its_share(grm, tmp_path, monkeypatch):
    for name in "abcde":
        write_folder(tmp_path / "data" / name, count=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in ((1, "bd"), (0, "abcde")):
        monkeypatch.setenv("RANK", str(rank))
        status, out, err = grm("evaluate", "folder", "--root", tmp_path / "data", "--output", tmp_path / "run", *QUICK)
        assert status == 0 and not out and f"grm report {tmp_path / 'run'} prints the table" in err
        assert "".join(Results(tmp_path / "run").names) == names
    status, out, err = grm("report", tmp_path / "run")
    assert status == 0 and "folder, all-frames, 5 sequences" in out


def test_submissions(grm, tmp_path):
    write_trackingnet(tmp_path / "data", {"TEST": ["a", "b"]}, count=3)
    for name in ("a", "b"):
        write_boxes(tmp_path / "data" / "TEST" / "anno" / f"{name}.txt", [[5, 6, 20, 18]])
    run = tmp_path / "run"
    status, out, err = grm("evaluate", "trackingnet", "--root", tmp_path / "data", "--output", run, *QUICK)
    assert status == 0 and not out and f"grm submit {run}" in err
    status, out, err = grm("submit", run, tmp_path / "a.zip")
    assert status == 0 and "2 sequences of trackingnet" in err
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["a.txt", "b.txt"]
    (run / "finished" / "a.json").unlink()
    status, out, err = grm("submit", run, tmp_path / "b.zip")
    assert status == 1 and "grm: a: no results" in err and not (tmp_path / "b.zip").exists()
    status, out, err = grm("report", run)
    assert status == 1 and "TrackingNet test: its truth is not public" in err


def test_mistakes(grm, tmp_path):
    for arguments, message in (
        (("evaluate", "vot2020", "--root", tmp_path), "benchmark: expected one of got10k-val"),
        (("evaluate", "lasot"), "lasot: expected the folder of the data set"),
        (("evaluate", "lasot", "--root", tmp_path), f"{tmp_path}: holds neither testing_set.txt nor a seq"),
        (("evaluate", "synthetic", "--root", tmp_path), "synthetic: expected a configuration"),
        (("report", tmp_path), f"{tmp_path}: holds no results"),
        (("submit", tmp_path, tmp_path / "a.tar"), "expected a .zip file to write"),
    ):
        status, _, err = grm(*arguments)
        assert status == 1 and f"grm: {message}" in err.replace(f"{tmp_path / 'a.tar'}: ", "")


def test_published_thresholds_are_for_published_weights_of_b256():
    lasot, got10k = find_benchmark("lasot"), find_benchmark("got10k-val")
    b256 = load_config("grm_b256").model
    assert published_threshold(lasot, b256) == 0.4 and published_threshold(got10k, b256) is None
    assert published_threshold(lasot, load_config("grm_l320").model) is None
    assert published_threshold(lasot, load_config("grm_b256", ["model.division.threshold=0.5"]).model) is None


@pytest.mark.slow
def test_processes_track_what_one_tracks(grm, tmp_path):
    for processes in (1, 2):
        run = tmp_path / f"{processes}"
        command = ("evaluate", "synthetic", "--limit", 3, "--set", "data.synthetic.frames=20", "--output", run)
        assert grm(*command, "--processes", processes, *QUICK)[0] == 0
    for name in Results(tmp_path / "1").names:
        one, two = (np.loadtxt(tmp_path / f"{n}" / f"{name}.txt", delimiter=",") for n in (1, 2))
        np.testing.assert_array_equal(one, two)


def test_what_is_read_is_not_written_over(grm, tmp_path):
    """Lists, attributes and weights are read by reports, too."""
    write_folder(tmp_path / "data" / "clip", count=3)
    flat = tmp_path / "flat"
    flat.mkdir()
    np.savetxt(flat / "clip.txt", np.full((3, 4), 20.0), delimiter=",")
    given = tmp_path / "given.csv"
    given.write_text("clip\n")
    of = (flat, "--benchmark", "folder", "--root", tmp_path / "data")
    for command in (
        ("report", *of, "--names", given, "--csv", given),
        ("report", *of, "--attributes", given, "--html", given),
        ("failures", *of, "--names", given, "--csv", given),
        ("failures", *of, "--weights", given, "--csv", given),
    ):
        status, _, err = grm(*command)
        assert status == 1 and "is read from, or written twice" in err and given.read_text() == "clip\n"


def test_names_of_any_bytes(grm, tmp_path):
    """In tables and in files: what is no UTF-8, and what a terminal would obey."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("caf\udce9", "a\x1b[31m"):
        write_folder(tmp_path / "data" / "clip", count=3)
        (tmp_path / "data" / "clip").rename(tmp_path / "data" / name)  # OpenCV cannot write there
        np.savetxt(flat / f"{name}.txt", np.full((3, 4), 20.0), delimiter=",")
    table = tmp_path / "table.csv"
    status, out, err = grm(
        "report", flat, "--benchmark", "folder", "--root", tmp_path / "data", "--by-sequence", 5, "--csv", table
    )
    assert status == 0, err
    assert "a\\x1b[31m" in out and "caf\\udce9" in out and b"caf\xe9" in table.read_bytes()


def test_failures_asks_for_layers_before_it_looks(grm, tmp_path):
    write_folder(tmp_path / "data" / "clip", count=3)
    run, losses = tmp_path / "run", tmp_path / "losses.csv"
    assert grm("evaluate", "folder", "--root", tmp_path / "data", "--output", run, *QUICK)[0] == 0
    status, _, err = grm("failures", run, "--layer", 99, "--csv", losses)
    assert status == 1 and "--layer: expected a number from 1 to 2, got 99" in err and not losses.exists()


def test_threads_of_several_processes_are_looked_at(grm, tmp_path):
    write_folder(tmp_path / "data" / "clip", count=3)
    status, _, err = grm("evaluate", "folder", "--root", tmp_path / "data", "--processes", 2, "--threads", 4096)
    assert status == 1 and "--threads: expected at most" in err
