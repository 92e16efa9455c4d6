"""Readers on trees of the real layouts: what is listed, where frames are read from, which frames count as visible."""

import json
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest

from grm.config import parse_config
from grm.data import open_datasets
from grm.errors import DataError
from grm.media.images import read_image

from . import trees


def opened(root, kind, **values):
    """The sequences of one data set at `root`."""
    config = parse_config({"data": {"root": str(root), "train": {"it": {"kind": kind, "root": ".", **values}}}})
    return open_datasets(config, config.data.train)["it"]


def check_frames(sequence, count, shade):
    """Length, boxes, and that every frame is read from its own file."""
    assert len(sequence) == count
    assert np.array_equal(sequence.boxes, trees.boxes_of(count))
    for i in (0, 1, count - 1):
        assert abs(trees.shade_of(sequence.frame(i)) - shade(i)) <= 2


def test_lasot(tmp_path):
    trees.write_lasot(tmp_path, ["electric-fan-1", "cat-20"], occluded=(3, 4), outside=(4, 9))
    sequences = opened(tmp_path, "lasot")
    assert [sequence.name for sequence in sequences] == ["electric-fan-1", "cat-20"]
    for sequence in sequences:
        check_frames(sequence, 25, lambda i: 10 * i % 250)
        assert np.flatnonzero(~sequence.visible).tolist() == [3, 4, 9]
    assert [s.name for s in opened(tmp_path, "lasot", split="all")] == ["cat-20", "electric-fan-1"]


def test_lasot_without_its_lists(tmp_path):
    trees.write_lasot(tmp_path, ["cat-1", "cat-2", "zebra-17"], count=2)
    (tmp_path / "training_set.txt").unlink()
    train, test = (opened(tmp_path, "lasot", split=split) for split in ("train", "test"))
    names = [sequence.name for sequence in train], [sequence.name for sequence in test]
    assert [len(set(each)) for each in names] == [1120, 280] and not set(names[0]) & set(names[1])
    assert names[1][:4] == ["airplane-1", "airplane-9", "airplane-13", "airplane-15"] and names[1][-1] == "zebra-17"
    classes = Counter(name.rpartition("-")[0] for name in names[1])
    assert len(classes) == 70 and set(classes.values()) == {4}
    check_frames(train[names[0].index("cat-2")], 2, lambda i: 10 * i)
    check_frames(test[names[1].index("cat-1")], 2, lambda i: 10 * i)
    (tmp_path / "testing_set.txt").write_text("cat-2\n")
    assert [sequence.name for sequence in opened(tmp_path, "lasot", split="test")] == ["cat-2"]


def test_boxes_without_an_area_are_absent(tmp_path):
    trees.write_lasot(tmp_path, ["cat-1"])
    boxes = np.array(trees.boxes_of(25))
    boxes[3], boxes[5, 2], boxes[7, 3], boxes[9, 0] = 0, 0, -2, np.nan
    trees.write_boxes(tmp_path / "cat" / "cat-1" / "groundtruth.txt", boxes)
    sequence = opened(tmp_path, "lasot")[0]
    assert np.flatnonzero(np.isnan(sequence.boxes).all(1)).tolist() == [3, 5, 7, 9]
    assert np.flatnonzero(~sequence.visible).tolist() == [3, 5, 7, 9]


def test_trackingnet(tmp_path):
    trees.write_trackingnet(tmp_path, {"TRAIN_0": ["b_1", "a_0"], "TRAIN_10": ["d"], "TRAIN_2": ["c"]})
    (tmp_path / "TRAIN_0.zip").write_bytes(b"what it was unpacked from")
    sequences = opened(tmp_path, "trackingnet")
    assert [sequence.name for sequence in sequences] == ["a_0", "b_1", "c", "d"]
    check_frames(sequences[3], 65, lambda i: 3 * i)
    assert np.flatnonzero(sequences[0].visible).tolist() == [0, 30, 60, 64]


def test_first_boxes_alone(tmp_path):
    """The test splits: as many frames as there are images, one box."""
    trees.write_trackingnet(tmp_path / "tn", {"TEST": ["a"]}, count=11)
    trees.write_got10k(tmp_path / "got", "test", count=12)
    trees.write_folder(tmp_path / "own", count=13, boxes=trees.boxes_of(1))
    for sequences, count in (
        (opened(tmp_path / "tn", "trackingnet", split="test"), 11),
        (opened(tmp_path / "got", "got10k", split="test"), 12),
        (opened(tmp_path / "own", "folder"), 13),
    ):
        sequence = sequences[0]
        assert len(sequence) == count
        assert np.flatnonzero(sequence.visible).tolist() == [0]
        assert sequence.boxes[0].tolist() == trees.boxes_of(1)[0] and np.isnan(sequence.boxes[1:]).all()


def test_got10k(tmp_path):
    names = trees.write_got10k(tmp_path, "train", absent=(2,), covered=(2, 7))
    sequences = opened(tmp_path, "got10k")
    assert [sequence.name for sequence in sequences] == names
    check_frames(sequences[1], 25, lambda i: 10 * i % 250)
    assert np.flatnonzero(~sequences[1].visible).tolist() == [2, 7]


def test_named_sequences(tmp_path):
    """Lists that the user names: by name, for GOT-10k by place too, and what is said of one that is not there."""
    list_file = tmp_path / "mine.txt"
    names = trees.write_got10k(tmp_path / "got", "train", count=3, sequences=4)
    list_file.write_text(f"3\n{names[1]}\n")
    assert [s.name for s in opened(tmp_path / "got", "got10k", names=str(list_file))] == [names[3], names[1]]
    list_file.write_text("4\n")
    with pytest.raises(DataError, match=r"list.txt: no sequence '4' \(1 of 1 named\)"):
        opened(tmp_path / "got", "got10k", names=str(list_file))

    trees.write_trackingnet(tmp_path / "tn", {"TRAIN_0": ["a", "b"], "TRAIN_1": ["c"]}, count=2)
    list_file.write_text("c\nb\n")
    assert [s.name for s in opened(tmp_path / "tn", "trackingnet", names=str(list_file))] == ["c", "b"]
    list_file.write_text("c\nz\n")
    with pytest.raises(DataError, match=r"no video 'z' in train \(1 of 2 named\)"):
        opened(tmp_path / "tn", "trackingnet", names=str(list_file))

    trees.write_lasot(tmp_path / "lasot", ["cat-1", "cat-2"], count=2)
    (tmp_path / "lasot" / "training_set.txt").unlink()
    list_file.write_text("cat-2\n")
    assert [s.name for s in opened(tmp_path / "lasot", "lasot", names=str(list_file))] == ["cat-2"]


@pytest.mark.parametrize("nested", [True, False])
def test_coco(tmp_path, nested):
    objects = [
        (30, [1.5, 2, 10, 12], False),
        (70, [3, 4, 5, 6], False),
        (30, [0, 0, 8, 9], True),
        (30, [4, 4, 0, 5], False),
        (30, [7, 8, 9, 10], False),
    ]
    sequences = opened(trees.write_coco(tmp_path, objects, nested), "coco")
    assert sequences.still
    assert [s.name for s in sequences] == [f"{i:012d}.jpg object {n}" for i, n in ((30, 100), (70, 101), (30, 104))]
    assert [s.boxes.tolist() for s in sequences] == [[objects[i][1]] for i in (0, 1, 4)]
    assert [abs(trees.shade_of(s.frame(0)) - shade) <= 2 for s, shade in zip(sequences, (30, 70, 30), strict=True)]
    assert all(len(s) == 1 and s.visible.tolist() == [True] for s in sequences)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"images": []}', '{"images": {}, "annotations": []}', "[" * 100_000])
def test_coco_that_is_not(tmp_path, text):
    trees.write_coco(tmp_path, [(30, [1, 2, 3, 4], False)])
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"instances_train2017\.json: not COCO's object annotations"):
        opened(tmp_path, "coco")
    path.write_text('{"images": [], "annotations": [{"id": 1, "image_id": 2}]}')
    with pytest.raises(DataError, match="no object is left of 1; 1 left out, first: annotation 1: there is no image 2"):
        opened(tmp_path, "coco")


def test_a_broken_annotation_of_coco_is_left_out_alone(tmp_path):
    trees.write_coco(tmp_path, [(30, [1.5, 2, 10, 12], False), (70, [3, 4, 5, 6], False)])
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    whole = content["annotations"][0]
    broken = {
        "expected finite numbers": {"bbox": [float("nan"), 2, 3, 4]},
        "expected finite": {"bbox": [1, 2, 10**400, 4]},
        "expected a box of four numbers, got [1, 2, 3]": {"bbox": [1, 2, 3]},
        "expected a box of four numbers, got None": {"bbox": None},
        "there is no image 999": {"image_id": 999},
        "there is no image [1]": {"image_id": [1]},
        "it has no number": {"id": None},
    }
    content["annotations"] += [{**whole, "id": 200 + i, **change} for i, change in enumerate(broken.values())]
    content["annotations"] += ["text", {key: whole[key] for key in ("id", "image_id", "bbox")}]  # one has no iscrowd
    content["images"] += [{"id": 71, "file_name": "bild-ü 漢.jpg"}, {"id": 72}]
    content["annotations"].append({**whole, "id": 300, "image_id": 71})
    trees.write_frame(tmp_path / "images" / "train2017" / "bild-ü 漢.jpg", 90)
    path.write_text(json.dumps(content))
    sequences = opened(tmp_path, "coco")
    assert [s.name.rpartition(" ")[2] for s in sequences] == ["100", "101", "100", "300"]
    assert abs(trees.shade_of(sequences[3].frame(0)) - 90) <= 2
    assert np.isfinite([s.boxes for s in sequences]).all()
    faults = [fault for fault in sequences.faults if "annotation" in fault.removeprefix(str(path))]
    assert len(faults) == len(broken) + 1 and len(sequences.faults) == len(broken) + 2
    for message, fault in zip(broken, faults, strict=False):
        assert message in fault and fault.endswith("; left out")
    assert sequences[:2].faults == sequences.faults


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_folder(tmp_path, separator):
    """Frames in the order of their numbers, whether or not those have leading zeros."""
    trees.write_folder(tmp_path, name="frame_{}.jpg", separator=separator)
    sequences = opened(tmp_path, "folder")
    assert len(sequences) == 1
    check_frames(sequences[0], 25, lambda i: 10 * i % 250)
    assert sequences[0].visible.all()


def test_folder_of_folders_with_flags(tmp_path):
    for name in ("b", "a"):
        trees.write_folder(tmp_path / name, count=4)
    (tmp_path / "a" / "full_occlusion.txt").write_text("0,0,1,0")
    (tmp_path / "notes").mkdir()
    sequences = opened(tmp_path, "folder")
    assert [s.name for s in sequences] == ["a", "b"]
    assert [s.visible.tolist() for s in sequences] == [[True, True, False, True], [True] * 4]
    assert [s.name for s in opened(tmp_path, "folder", limit=1)] == ["a"]


def test_listing_opens_nothing(tmp_path):
    """GOT-10k and TrackingNet have thousands of sequences: a list of names is all that listing reads."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "list.txt").write_text("\n".join(f"GOT-10k_Train_{i:06d}" for i in range(1, 9336)))
    sequences = opened(tmp_path, "got10k")
    assert len(sequences) == 9335 and sequences[-1].name == "GOT-10k_Train_009335"
    assert len(pickle.dumps(sequences)) < 500_000
    with pytest.raises(DataError, match=r"GOT-10k_Train_000001.groundtruth.txt: cannot be read: No such file"):
        _ = sequences[0].boxes


def test_every_missing_path_is_named(tmp_path):
    values = {
        "one": {"kind": "lasot", "root": "lasot"},
        "two": {"kind": "got10k", "root": "got10k", "names": str(tmp_path / "vot.txt")},
        "three": {"kind": "coco", "root": str(tmp_path / "coco")},
        "four": {"kind": "trackingnet", "root": "tn"},
        "five": {"kind": "trackingnet", "root": "tn", "split": "val"},
    }
    config = parse_config({"data": {"root": str(tmp_path), "train": values}})
    with pytest.raises(DataError) as error:
        open_datasets(config, config.data.train)
    assert str(error.value).splitlines() == [
        f"one: missing: {tmp_path}/lasot",
        f"two: missing: {tmp_path}/got10k/train",
        f"two: missing: {tmp_path}/got10k/train/list.txt",
        f"two: missing: {tmp_path}/vot.txt",
        f"three: missing: {tmp_path}/coco",
        f"three: missing: {tmp_path}/coco/annotations/instances_train2017.json",
        f"three: missing: {tmp_path}/coco/train2017",
        f"four: missing: {tmp_path}/tn",
        f"four: missing: {tmp_path}/tn/TRAIN_0/anno",
        f"four: missing: {tmp_path}/tn/TRAIN_0/frames",
        "five: split: trackingnet has train, test, got 'val'",
    ]


def test_empty_data_set(tmp_path):
    with pytest.raises(DataError, match=r"it: .*holds no sequences of folder"):
        opened(tmp_path, "folder")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("groundtruth.txt", "1,2,3\n", "groundtruth.txt: expected x, y, width, height in every line, got '1,2,3'"),
        ("groundtruth.txt", "1,2,3,x\n", "groundtruth.txt: could not convert string"),
        ("groundtruth.txt", "\n", "groundtruth.txt: holds no box"),
        ("groundtruth.txt", "1,2,3,4\n1,2,3,4\n", "full_occlusion.txt: expected a number for each of 2 frames, got 3"),
        ("out_of_view.txt", "0,0", "out_of_view.txt: expected a number for each of 3 frames, got 2"),
        ("out_of_view.txt", "0,0,no", "out_of_view.txt: invalid literal"),
        ("full_occlusion.txt", None, "full_occlusion.txt: cannot be read: No such file"),
    ],
)
def test_broken_annotations_are_named(tmp_path, file, text, message):
    trees.write_lasot(tmp_path, ["cat-1"], count=3)
    path = tmp_path / "cat" / "cat-1" / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        _ = opened(tmp_path, "lasot")[0].visible
    assert str(tmp_path) in str(error.value)


def test_folder_counts_must_agree(tmp_path):
    trees.write_folder(tmp_path, count=4, boxes=trees.boxes_of(3))
    with pytest.raises(DataError, match=r"groundtruth.txt: 3 boxes for 4 images"):
        _ = opened(tmp_path, "folder")[0].boxes


@pytest.mark.parametrize("kind", ["trackingnet", "folder"])
def test_an_empty_line_does_not_move_the_boxes_after_it(tmp_path, kind):
    if kind == "folder":
        path = trees.write_folder(tmp_path, count=4) / "groundtruth.txt"
    else:
        trees.write_trackingnet(tmp_path, {"TRAIN_0": ["a"]})
        path = tmp_path / "TRAIN_0" / "anno" / "a.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "", " \n"]))
    assert len(opened(tmp_path, kind)[0].boxes) == len(lines)
    path.write_text("\n".join(["", *lines[1:]]))
    with pytest.raises(DataError, match=r"expected x, y, width, height in every line, got ''"):
        _ = opened(tmp_path, kind)[0].boxes


def too_large(jpeg):
    """The same with a header that says 65,500 x 65,500 pixels."""
    at = jpeg.index(b"\xff\xc0") + 5  # start of the frame: marker, length, bits, then height and width
    return jpeg[:at] + (65500).to_bytes(2, "big") * 2 + jpeg[at + 4 :]


def test_broken_images_are_named(tmp_path):
    path = tmp_path / "1.jpg"
    trees.write_frame(path, 100)
    whole = path.read_bytes()
    assert trees.shade_of(read_image(path)) == pytest.approx(100, abs=2)
    for data, message in (
        (whole[: len(whole) // 2], r"1.jpg: the JPEG is cut off after \d+ bytes"),
        (b"", r"1.jpg: not an image that OpenCV reads \(0 bytes\)"),
        (b"GIF?", r"1.jpg: not an image that OpenCV reads \(4 bytes\)"),
        (too_large(whole), r"1.jpg: 65500 x 65500 pixels, expected at most \d+ in all"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_image(path)
    path.unlink()
    with pytest.raises(DataError, match=r"1.jpg: cannot be read: No such file"):
        read_image(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "synthetic"}, "data.train.it.kind: synthetic: expected limit"),
        ({"kind": "synthetic", "limit": 3, "root": "x"}, "data.train.it.kind: synthetic: expected limit"),
        ({"kind": "lasot"}, "root: kind lasot needs one"),
        ({"kind": "lasott", "root": "x"}, "data.train.it.kind: input should be 'lasot'"),
        ({"kind": "lasot", "root": "x", "splitt": "test"}, "unknown key, did you mean 'split'"),
    ],
)
def test_mistakes_in_the_configuration(values, message):
    with pytest.raises(ValueError, match=message):
        parse_config({"data": {"train": {"it": values}}})


def test_regions(tmp_path):
    """A thousand of each picture, within it, the same whenever they are opened, none like another."""
    for name, shade in (("a.jpg", 10), ("b.jpg", 200)):
        trees.write_frame(tmp_path / name, shade, 120, 90)
    sequences = opened(tmp_path, "regions")
    assert len(sequences) == 2000 and sequences.still
    boxes = np.concatenate([sequences[i].boxes for i in range(0, 40, 2)])
    assert np.array_equal(boxes, np.concatenate([sequences[i].boxes for i in range(0, 40, 2)]))
    assert len(np.unique(boxes, axis=0)) == 20
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= (120, 90)).all()
    assert trees.shade_of(sequences[0].frame(0)) == 10 and trees.shade_of(sequences[1].frame(0)) == 200
    assert sequences[0].visible.tolist() == [True]


def test_a_region_is_where_there_is_most_to_see(tmp_path):
    """All that there is lies in the right half of the picture."""
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    assert cv2.imwrite(str(tmp_path / "half.png"), image)
    boxes = np.concatenate([sequence.boxes for sequence in opened(tmp_path, "regions")[:50]])
    assert (boxes[:, 0] + boxes[:, 2] > 100).mean() > 0.95


@pytest.mark.parametrize("kind", ["folder", "regions", "coco"])
def test_names_that_are_not_there(tmp_path, kind):
    """All of them are known before anything is drawn."""
    trees.write_folder(tmp_path / "folder" / "a", 3)
    trees.write_frame(tmp_path / "regions" / "a.jpg", 7)
    trees.write_coco(tmp_path / "coco", [(1, [1, 2, 10, 12], False)])
    known = {"folder": "a", "regions": "a.jpg", "coco": "000000000001.jpg"}[kind]
    (tmp_path / "list.txt").write_text(f"{known}\nb\nc\n")
    with pytest.raises(DataError, match=r"no sequence 'b' \(2 of 3 named\)"):
        opened(tmp_path / kind, kind, names=str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text(f"{known}\n")
    assert opened(tmp_path / kind, kind, names=str(tmp_path / "list.txt"))
