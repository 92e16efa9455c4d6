"""The benchmarks on trees of their layouts, and the files in which people have them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from grm.config import load_config
from grm.data.readers.annotations import read_boxes
from grm.errors import ConfigError, DataError
from grm.evaluation.benchmarks import BENCHMARKS, find_benchmark, open_benchmark

from ..data import trees as training_trees
from ..data.trees import boxes_of, shade_of, write_boxes
from . import trees


def check(sequences, names, first_shade=None):
    """Names, boxes, and that the first and the last frame are read from their own files."""
    assert sorted(s.name for s in sequences) == sorted(names)
    for sequence in sequences:
        assert np.array_equal(sequence.boxes, boxes_of(5)) and len(sequence) == 5
        start = (first_shade or {}).get(sequence.name, 0)
        assert [abs(shade_of(sequence.frame(i)) - start - 10 * i) <= 2 for i in (0, 4)] == [True, True]
        assert pickle.loads(pickle.dumps(sequence)).name == sequence.name


@pytest.mark.parametrize("nested", [True, False])
def test_lasot_extension(tmp_path, nested):
    names = trees.write_lasot_extension(tmp_path, nested=nested)
    sequences = open_benchmark("lasot-extension", tmp_path)
    check(sequences, names)
    assert np.flatnonzero(~sequences[0].visible).tolist() == [3]


def test_lasot_without_folders_of_classes(tmp_path):
    names = trees.write_lasot_extension(tmp_path, nested=False)
    (tmp_path / "testing_set.txt").write_text("paddle-10\r\natv-1\r\n")
    check(open_benchmark("lasot", tmp_path), names)


def test_avist(tmp_path):
    names = trees.write_avist(tmp_path)
    sequences = open_benchmark("avist", tmp_path)
    check(sequences, names)
    assert np.flatnonzero(~sequences[0].visible).tolist() == [2, 3]
    lines = (tmp_path / "anno" / "zebra.txt").read_text().splitlines()
    lines[1] = "0 6 20 18"
    (tmp_path / "anno" / "zebra.txt").write_text("\n".join(lines))
    at_the_edge = next(sequence for sequence in open_benchmark("avist", tmp_path) if sequence.name == "zebra")
    assert np.flatnonzero(~at_the_edge.visible).tolist() == [1, 2, 3] and at_the_edge.boxes[1].tolist() == [
        0,
        6,
        20,
        18,
    ]


@pytest.mark.parametrize("surplus", [0, 1])
def test_nfs(tmp_path, surplus):
    names = trees.write_nfs(tmp_path, surplus=surplus)
    check(open_benchmark("nfs30", tmp_path), names)


@pytest.mark.parametrize("rate", [1, 8])
def test_nfs_as_it_is_downloaded(tmp_path, rate):
    names = trees.write_nfs_original(tmp_path, rate=rate)
    check(open_benchmark("nfs30", tmp_path), names)


def test_nfs_with_frames_of_a_list(tmp_path):
    trees.write_nfs(tmp_path)
    trees.write_images(tmp_path / "sequences" / "ball_10", 8, "{:05d}.jpg")
    with pytest.raises(DataError, match=r"nfs_ball_10.txt: 5 boxes for 8 images"):
        open_benchmark("nfs30", tmp_path)[1].boxes  # noqa: B018
    (tmp_path / "list.txt").write_text("ball_10 3 7\nGymnastics\n")
    sequences = open_benchmark("nfs30", tmp_path, names=tmp_path / "list.txt")
    check(sequences, ["ball_10", "Gymnastics"], {"ball_10": 20})
    (tmp_path / "list.txt").write_text("ball_10 5 9\n")
    with pytest.raises(DataError, match="ball_10: 4 of the 5 frames from 5 to 9"):
        open_benchmark("nfs30", tmp_path, names=tmp_path / "list.txt")[0].boxes  # noqa: B018


@pytest.mark.parametrize("own", [True, False])
def test_uav123(tmp_path, own):
    """With the data set's own list, and with the user's."""
    names = trees.write_uav123(tmp_path)
    given = None
    if own:
        trees.write_uav123_list(tmp_path / "configSeqs.m")
    else:
        given = tmp_path / "list.txt"
        given.write_text("bike1\nbird1_1 bird1 1 5\nbird1_2,bird1,6,10\n")
    check(open_benchmark("uav123", tmp_path, names=given), names, {"bird1_2": 50})


def test_uav123_without_a_list(tmp_path):
    trees.write_uav123(tmp_path)
    sequences = open_benchmark("uav123", tmp_path)
    assert len(sequences) == 3 and len(sequences[0]) == 5
    with pytest.raises(DataError, match=r"bird1_1: no folder .*bird1_1: expected .*configSeqs.m, or a list"):
        sequences[1]
    (tmp_path / "configSeqs.m").write_text("function seqs = configSeqs\n")
    with pytest.raises(DataError, match=r"configSeqs.m: holds no sequence"):
        open_benchmark("uav123", tmp_path)


def test_absent_targets_of_uav123(tmp_path):
    trees.write_uav123(tmp_path)
    (tmp_path / "anno" / "UAV123" / "bike1.txt").write_text("5,6,10,12\nNaN,NaN,NaN,NaN\n" + "5,6,10,12\n" * 3)
    assert open_benchmark("uav123", tmp_path)[0].visible.tolist() == [True, False, True, True, True]


def test_otb(tmp_path):
    names = trees.write_otb(tmp_path)
    check(open_benchmark("otb100", tmp_path), names)


def test_frames_of_otb(tmp_path):
    """David's boxes begin with image 300, by what is known of it and by a list."""
    trees.write_otb(tmp_path)
    trees.write_images(tmp_path / "David" / "img", 478, "{:04d}.jpg", first=293)
    write_boxes(tmp_path / "David" / "groundtruth_rect.txt", boxes_of(471))
    david = {s.name: s for s in open_benchmark("otb100", tmp_path)}["David"]
    assert len(david) == 471 and abs(shade_of(david.frame(0)) - 70) <= 2
    write_boxes(tmp_path / "David" / "groundtruth_rect.txt", boxes_of(5))
    (tmp_path / "list.txt").write_text("David 301 305\n")
    david = open_benchmark("otb100", tmp_path, names=tmp_path / "list.txt")
    check(david, ["David"], {"David": 80})
    for line, message in (
        ("Goliath\n", "no sequence 'Goliath'"),
        ("David 3\n", "expected NAME or NAME FIRST LAST in a line, got 'David 3'"),
        (",\n", "expected NAME or NAME FIRST LAST in a line, got ','"),
        ("David Other 301 305\n", "expected NAME or NAME FIRST LAST"),
        ("David\nDavid 301 305\n", "expected each sequence once, got 'David' twice"),
        ("David\nDavid\n", "list.txt: names 'David' twice"),
    ):
        (tmp_path / "list.txt").write_text(line)
        with pytest.raises(DataError, match=message):
            open_benchmark("otb100", tmp_path, names=tmp_path / "list.txt")


def test_tnl2k(tmp_path):
    names = trees.write_tnl2k(tmp_path)
    check(open_benchmark("tnl2k", tmp_path), names)


def test_itb(tmp_path):
    names = trees.write_itb(tmp_path)
    check(open_benchmark("itb", tmp_path), names)
    (tmp_path / "list.txt").write_text("run\nwalk\n")
    with pytest.raises(DataError, match=r"no video 'walk' \(1 of 2 named\)"):
        open_benchmark("itb", tmp_path, names=tmp_path / "list.txt")


def test_those_that_are_trained_on_too(tmp_path):
    names = training_trees.write_got10k(tmp_path / "got", "val", count=5)
    check(open_benchmark("got10k-val", tmp_path / "got"), names)
    names = training_trees.write_got10k(tmp_path / "got", "test", count=5)
    sequences = open_benchmark("got10k-test", tmp_path / "got")
    assert [(s.name, len(s)) for s in sequences] == [(name, 5) for name in names]
    training_trees.write_trackingnet(tmp_path / "tn", {"TEST": ["b", "a"]}, count=5)
    (tmp_path / "tn" / "TEST" / "anno" / "._a.txt").write_bytes(b"\x00\x05\x16\x07")
    assert [(s.name, len(s)) for s in open_benchmark("trackingnet", tmp_path / "tn")] == [("a", 5), ("b", 5)]


@pytest.mark.parametrize("images", [".", "img"])
def test_plain_folders(tmp_path, images):
    for name in ("one", "two"):
        trees.write_images(tmp_path / name / images, 5)
        write_boxes(tmp_path / name / "groundtruth.txt", boxes_of(5))
    check(open_benchmark("folder", tmp_path), ["one", "two"])
    assert [s.name for s in open_benchmark("folder", tmp_path, limit=1)] == ["one"]


def test_synthetic():
    config = load_config("synthetic_tiny").data.synthetic
    sequences = open_benchmark("synthetic", None, synthetic=config, limit=3)
    assert len(sequences) == 3 and sequences[0].name.startswith("synthetic-")
    with pytest.raises(ConfigError, match="synthetic: expected a configuration and a number"):
        open_benchmark("synthetic", None)


@pytest.mark.parametrize("separator", [",", "\t", " ", ";", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_ends_of_lines_and_byte_order_marks(tmp_path, separator, end):
    rows = [["1", "2", "3", "4"], ["NaN"] * 4, ["1e308"] * 4, ["0", "0", "0", "0"], ["1.5", "-2", "3", "4e1"]]
    text = end.join(separator.join(row) for row in rows)
    (tmp_path / "boxes.txt").write_bytes(b"\xef\xbb\xbf" + (text + end).encode())
    nothing = [np.nan] * 4
    np.testing.assert_array_equal(
        read_boxes(tmp_path / "boxes.txt"), [[1, 2, 3, 4], nothing, nothing, nothing, [1.5, -2, 3, 40]]
    )


def test_polygons_become_the_boxes_around_them(tmp_path):
    (tmp_path / "boxes.txt").write_text("0,1,4,0,5,6,1,7\nnan,nan,nan,nan,nan,nan,nan,nan\n2,2,2,2,2,2,2,2\n")
    nothing = [np.nan] * 4
    np.testing.assert_array_equal(read_boxes(tmp_path / "boxes.txt"), [[0, 0, 5, 7], nothing, nothing])
    (tmp_path / "boxes.txt").write_text("0 0 3 0 0 3\n")
    assert read_boxes(tmp_path / "boxes.txt").tolist() == [[0, 0, 3, 3]]
    for text, got in (("1,2,3,4\n0,1,4,0,5,6,1,7\n", "0,1,4,0,5,6,1,7"), ("1,2,3,4,5\n", "1,2,3,4,5")):
        (tmp_path / "boxes.txt").write_text(text)
        with pytest.raises(DataError, match=f"expected x, y, width, height in every line, got '{got}'"):
            read_boxes(tmp_path / "boxes.txt")


def test_all_that_is_missing_is_said(tmp_path):
    with pytest.raises(DataError) as error:
        open_benchmark("avist", tmp_path, names=tmp_path / "list.txt")
    parts = ("sequences", "anno", "full_occlusion", "out_of_view", "list.txt")
    assert str(error.value).splitlines() == [f"AVisT: missing: {tmp_path / part}" for part in parts]
    with pytest.raises(DataError, match=r"ITB: .*: holds no sequences"):
        open_benchmark("itb", tmp_path)
    with pytest.raises(ConfigError, match="lasot: expected the folder"):
        open_benchmark("lasot", None)
    with pytest.raises(ConfigError, match=r"expected one of got10k-val, .*, got 'vot2020'"):
        find_benchmark("vot2020")


def test_published_thresholds():
    published = {name: row.threshold for name, row in BENCHMARKS.items() if row.threshold is not None}
    assert published == {"lasot": 0.4, "nfs30": 0.6, "uav123": 0.55, "avist": 0.4}


def test_the_folder_that_one_is_in_has_a_name(tmp_path, monkeypatch):
    trees.write_images(tmp_path / "clip", 5)
    write_boxes(tmp_path / "clip" / "groundtruth.txt", boxes_of(5))
    monkeypatch.chdir(tmp_path / "clip")
    check(open_benchmark("folder", Path(".")), ["clip"])


def test_names_with_spaces(tmp_path):
    """Those of the folders, which no list has to say."""
    trees.write_otb(tmp_path)
    trees.write_images(tmp_path / "My Clip" / "img", 3, "{:04d}.jpg")
    write_boxes(tmp_path / "My Clip" / "groundtruth_rect.txt", boxes_of(3))
    assert "My Clip" in [sequence.name for sequence in open_benchmark("otb100", tmp_path)]
