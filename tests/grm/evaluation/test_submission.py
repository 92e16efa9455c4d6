"""Files for the servers: what is in them, and what is refused."""

import zipfile

import numpy as np
import pytest

from grm.errors import DataError
from grm.evaluation.results import Results, RunFolder
from grm.evaluation.submission import write_submission

from .scenes import Clip, trajectory

CLIPS = [Clip("one", 3), Clip("two", 5)]


class FirstBoxOnly:
    """A sequence of a test split: the first box alone is known."""

    def __init__(self, clip):
        self.name, self.boxes, self._count = clip.name, clip.boxes.copy(), len(clip)
        self.boxes[1:] = np.nan

    def __len__(self):
        return self._count


SEQUENCES = [FirstBoxOnly(clip) for clip in CLIPS]


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run", {"benchmark": "got10k-test"}, {"tracker": "ours", "benchmark": "got10k-test"})
    for clip in CLIPS:
        run.write(clip, trajectory(clip, shift=0.25, seconds=0.0125))
    return run.folder


def content(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_got10k(run, tmp_path):
    assert write_submission("got10k-test", Results(run), SEQUENCES, tmp_path / "a.zip") == 2
    files = content(tmp_path / "a.zip")
    assert sorted(files) == ["one/one_001.txt", "one/one_time.txt", "two/two_001.txt", "two/two_time.txt"]
    assert (
        files["one/one_001.txt"] == "5.000,6.000,20.000,16.000\n7.250,6.000,20.000,16.000\n9.250,6.000,20.000,16.000\n"
    )
    assert files["one/one_time.txt"] == "0.01250000\n" * 3
    write_submission("got10k-test", Results(run), SEQUENCES, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_trackingnet(run, tmp_path):
    write_submission("trackingnet", Results(run), SEQUENCES, tmp_path / "a.zip")
    files = content(tmp_path / "a.zip")
    assert sorted(files) == ["one.txt", "two.txt"] and files["two.txt"].splitlines()[0] == "5.000,6.000,20.000,16.000"
    assert [len(text.splitlines()) for text in files.values()] == [3, 5]


def flat(tmp_path, **changed):
    """Results of another tool, with some sequences changed."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for clip in CLIPS:
        boxes = changed.get(clip.name, trajectory(clip).boxes)
        if boxes is not None:
            np.savetxt(folder / f"{clip.name}.txt", boxes, delimiter=",")
    return Results(folder)


def changed(index, values):
    boxes = trajectory(CLIPS[1]).boxes
    boxes[index] = values
    return boxes


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (None, "two: no results"),
        (changed(0, [5, 6, 20, 16])[:4], "two: 4 lines for 5 frames"),
        (changed(2, [np.nan, 6, 20, 16]), r"two: line 3 is not finite: \[nan, 6.0, 20.0, 16.0\]"),
        (changed(3, [5, 6, np.inf, 16]), "two: line 4 is not finite"),
        (changed(4, [5, 6, 0, 16]), "two: line 5 has no area"),
        (changed(0, [7, 6, 20, 16]), r"two: line 1 is not the given box \[5.0, 6.0, 20.0, 16.0\]"),
    ],
)
def test_nothing_is_written_of_results_that_are_not_whole(tmp_path, boxes, message):
    results = flat(tmp_path, two=boxes)
    with pytest.raises(DataError, match=rf"flat: cannot be submitted: 1 of 2 sequences are at fault\n{message}"):
        write_submission("trackingnet", results, SEQUENCES, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_got10k_needs_times(tmp_path):
    results = flat(tmp_path)
    with pytest.raises(DataError, match="one: expected a time for each of 3 frames, got none"):
        write_submission("got10k-test", results, SEQUENCES, tmp_path / "a.zip")
    for clip in CLIPS:
        (results.folder / f"{clip.name}_time.txt").write_text("0.5\n" * 4)
    with pytest.raises(DataError, match="of 3 frames, got 4, 4 of them finite"):
        write_submission("got10k-test", results, SEQUENCES, tmp_path / "a.zip")


def test_other_benchmarks_have_no_server(run, tmp_path):
    with pytest.raises(
        DataError, match="lasot: has no server of its own; submissions are for got10k-test, trackingnet"
    ):
        write_submission("lasot", Results(run), SEQUENCES, tmp_path / "a.zip")


def test_many_faults_are_cut_short(tmp_path):
    results = flat(tmp_path)
    others = [FirstBoxOnly(Clip(f"clip-{i}")) for i in range(12)]
    with pytest.raises(DataError) as error:
        write_submission("trackingnet", results, others, tmp_path / "a.zip")
    lines = str(error.value).splitlines()
    assert len(lines) == 12 and lines[-1] == "and 2 more" and "12 of 12" in lines[0]
