"""`grm data check` on whole and broken trees, and `grm data render` against what is read back."""

import json
import shutil

import av
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from grm.cli.data import app
from grm.config import load_config
from grm.data.export import export_folder, export_video
from grm.data.readers.folder import FolderSequence
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.errors import ConfigError, DataError

from ..data import trees

pytest.importorskip("matplotlib")


def run(*arguments):
    """Status and output on a narrow terminal; what the command raises is raised here, as the main command prints it."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "60"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def checked(tmp_path, *arguments):
    """Status, printed lines and the JSON of a check of the trees under `tmp_path`."""
    values = {
        "root": str(tmp_path),
        "train": {"cats": {"kind": "lasot", "root": "lasot"}, "got": {"kind": "got10k", "root": "got"}},
        "held_out": {"own": {"kind": "folder", "root": "own"}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": values}))
    status, output = run("check", path, "--json", tmp_path / "found.json", *arguments)
    return status, output.splitlines(), json.loads((tmp_path / "found.json").read_text())


@pytest.fixture
def whole(tmp_path):
    trees.write_lasot(tmp_path / "lasot", ["cat-1", "cat-2"], count=25, occluded=(3, 4))
    trees.write_got10k(tmp_path / "got", "train", count=20, sequences=3, covered=())
    trees.write_folder(tmp_path / "own", 30)
    return tmp_path


def test_whole_data(whole):
    status, lines, found = checked(whole)
    assert status == 0 and len(lines) == 4
    cats = {"listed": 2, "walked": 2, "too_short": 0, "frames": 50, "boxes": 50, "visible": 46, "opened": 2}
    assert found["train.cats"] == {**cats, "over_edge": 0, "faults": []}
    assert found["train.got"]["too_short"] == 0 and found["train.got"]["frames"] == 60
    assert found["held_out.own"]["visible"] == 30
    assert lines[1].split() == ["train.cats", "2", "2", "0", "50", "100.0%", "92.0%", "2", "0", "0"]


def test_broken_data(whole):
    """A missing image, one cut off where it is opened, a broken annotation, a box outside: each is named."""
    got = whole / "got" / "train" / "GOT-10k_Train_000002"
    (whole / "lasot" / "cat" / "cat-1" / "img" / "00000007.jpg").unlink()
    image = whole / "lasot" / "cat" / "cat-2" / "img" / "00000003.jpg"
    image.write_bytes(image.read_bytes()[:300])
    (got / "cover.label").write_text("8\n")
    trees.write_boxes(whole / "own" / "groundtruth.txt", [[500, 6, 10, 12], [-4, 6, 10, 12], *trees.boxes_of(28)])
    status, lines, found = checked(whole, "--every", 1)
    assert status == 1
    faults = [
        f"train.cats: {whole}/lasot/cat/cat-1/img/00000007.jpg: cannot be read: No such file or directory",
        f"train.cats: {image}: the JPEG is cut off after 300 bytes",
        f"train.got: {got}/cover.label: expected a number for each of 20 frames, got 1",
        "held_out.own: own frame 0: the box 500, 6, 10, 12 is outside of 48 x 40 pixels",
    ]
    assert lines[4:] == faults
    assert found["held_out.own"]["over_edge"] == 2 and found["train.cats"]["opened"] == 48
    # Where few images are opened, a missing one is still seen.
    assert [fault.rpartition(": ")[2] for fault in checked(whole, "--every", 1000)[2]["train.cats"]["faults"]] == [
        "missing"
    ]


def test_numbers_that_are_too_large_are_faults(whole):
    """And the rest is walked."""
    label = whole / "got" / "train" / "GOT-10k_Train_000002" / "cover.label"
    label.write_text("99999999999999999999\n" * 20)
    status, lines, found = checked(whole)
    assert status == 1 and len(lines) == 5 and lines[4].startswith(f"train.got: {label}: ")
    assert found["held_out.own"]["frames"] == 30


def test_a_report_that_cannot_be_written_costs_no_table(whole):
    checked(whole)
    arguments = ["check", str(whole / "config.yaml"), "--json", str(whole / "nowhere" / "found.json")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, FileNotFoundError) and "train.cats" in result.stdout


def test_boxes_that_cannot_be_cropped_are_faults(whole):
    trees.write_boxes(whole / "own" / "groundtruth.txt", [[5, 6, 1e6, 1e6], *trees.boxes_of(29)])
    status, lines, _ = checked(whole)
    assert status == 1
    assert lines[4:] == [
        "held_out.own: own frame 0: the box 5, 6, 1e+06, 1e+06 is too large or too small to be cropped"
    ]


def test_many_faults_are_summed_up(whole):
    for path in (whole / "lasot" / "cat" / "cat-1" / "img").glob("*.jpg"):
        path.unlink()
    status, lines, found = checked(whole)
    assert status == 1 and len(found["train.cats"]["faults"]) == 25
    assert len(lines) == 4 + 21 and lines[-1] == "train.cats: and 5 more faults"


def test_still_images(tmp_path):
    """Every object's image has to be there; only some are opened."""
    trees.write_coco(tmp_path / "coco", [(i, [1, 2, 10, 12], False) for i in range(1, 31)])
    (tmp_path / "coco" / "images" / "train2017" / "000000000015.jpg").unlink()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": {"train": {"c": {"kind": "coco", "root": str(tmp_path / "coco")}}}}))
    status, output = run("check", path, "--every", 10)
    row = output.splitlines()[1].split()
    assert status == 1 and row == ["train.c", "30", "30", "0", "30", "100.0%", "100.0%", "3", "0", "1"]
    assert "000000000015.jpg: missing" in output


def test_synthetic_data():
    status, output = run("check", "synthetic_tiny")
    rows = [line.split() for line in output.splitlines()[1:]]
    assert status == 0
    assert rows[0][:5] == ["train.synthetic", "1000000", "100", "0", "8000"]
    assert rows[1][:5] == ["held_out.synthetic", "20", "20", "0", "1600"]


def test_regions_are_looked_at_picture_by_picture(tmp_path):
    """A thousand regions of each of three pictures, one of which is no image: it is said once."""
    trees.write_folder(tmp_path / "photos", 3)
    (tmp_path / "photos" / "00000002.jpg").write_bytes(b"no image")
    photos = "data.train={photos: {kind: regions, root: photos}}"
    arguments = ("--set", f"data.root={tmp_path}", "--set", photos, "--set", "data.held_out={}")
    status, output = run("check", "grm_nano", *arguments)
    rows = output.splitlines()
    assert status == 1 and rows[1].split()[:3] == ["train.photos", "3000", "3"]
    assert len(rows) == 3 and "00000002.jpg" in rows[2]


def test_folders_of_rendered_video_start_at_the_root(tmp_path, monkeypatch):
    """In every command alike, wherever one is; what is missing or holds nothing of use is said once."""
    trees.write_cutouts(tmp_path / "root" / "cut")
    monkeypatch.chdir(tmp_path)
    common = ["--set", f"data.root={tmp_path / 'root'}", "--set", "data.synthetic.cutout=1"]
    cut = [*common, "--set", "data.synthetic.cutouts=cut"]
    assert run("render", tmp_path / "clip", *cut, *SHORT)[0] == 0
    assert run("check", "synthetic_tiny", *cut, *SHORT)[0] == 0
    trees.write_folder(tmp_path / "root" / "videos" / "one", 25)
    trees.write_folder(tmp_path / "root" / "opaque", 2)
    both = "data.train={own: {kind: folder, root: videos}, it: {kind: synthetic, limit: 1000000}}"
    opaque = [*common, "--set", "data.synthetic.cutouts=opaque", "--set", both, "--set", "data.held_out={}"]
    status, output = run("check", "synthetic_tiny", *opaque)
    assert status == 1 and output.count("holds no cut-outs") == 1 and "train.own" in output
    paste = ["--set", "data.paste=0.5", "--set", "data.synthetic.cutouts=none", "--set", both]
    with pytest.raises(DataError, match=r"it: missing: .*none\n(.*\n)?data.paste: missing: .*none"):
        run("check", "grm_nano", *common, *paste)


def test_what_cannot_be_checked(tmp_path):
    both = ("data.train={a: {kind: folder, root: a}}", "data.held_out={b: {kind: folder, root: b}}")
    with pytest.raises(DataError, match=r"a: missing: .*\n?b: missing: "):
        run("check", "grm_tiny", "--set", f"data.root={tmp_path}", "--set", both[0], "--set", both[1])
    with pytest.raises(DataError, match="lasot: missing"):
        run("check", "grm_b256", "--set", f"data.root={tmp_path}")
    with pytest.raises(DataError, match=r"grm_tiny: data.train and data.held_out name no data set"):
        run("check", "grm_tiny")
    with pytest.raises(ConfigError, match="grm_b265: no such preset"):
        run("check", "grm_b265")


SHORT = ("--set", "data.synthetic.frames=24", "--set", "data.synthetic.occlusions=[3, 3]")


def test_export_as_a_folder(tmp_path):
    """The folder reader gives back the boxes to a thousandth, the flags, and nearly the pixels."""
    status, output = run("render", tmp_path / "new" / "clip", "--seed", 5, "--held-out", *SHORT)
    config = load_config("synthetic_tiny", SHORT[1::2]).data.synthetic
    sequence, back = synthetic_sequence(config, HELD_OUT + 5), FolderSequence(tmp_path / "new" / "clip")
    assert status == 0 and f"24 frames, {sequence.visible.sum()} of them" in output
    assert len(back) == 24 and np.array_equal(back.visible, sequence.visible) and not sequence.visible.all()
    assert np.abs(back.boxes - sequence.boxes).max() <= 0.0005
    difference = back.frame(7).astype(float) - sequence.frame(7)
    # What JPEG leaves of a frame with fine texture and noise; another frame is several times further away.
    assert np.abs(difference).mean() < 6 < np.abs(back.frame(20).astype(float) - sequence.frame(7)).mean()
    with pytest.raises(DataError, match="clip: expected an empty or new folder"):
        run("render", tmp_path / "new" / "clip")


class Dark:
    """Three black frames; the target is hidden in the second and absent in the third."""

    name = "dark"
    boxes = np.array([[5, 6, 10, 12], [15.2, 7, 10.1, 12], [np.nan] * 4])
    visible = np.array([True, False, False])

    def __len__(self):
        return 3

    def frame(self, index):
        return np.zeros((40, 48, 3), dtype=np.uint8)


def drawn_box(image, channel):
    """x, y, width, height around what is drawn in one colour."""
    rows, columns = (np.flatnonzero((image[..., channel] > 120).any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def test_drawn_boxes(tmp_path):
    """The outermost pixels of the box: green where the target is visible, red where it is hidden, else none."""
    export_folder(Dark(), tmp_path, draw=True)
    back = FolderSequence(tmp_path)
    assert drawn_box(back.frame(0), 1) == [5, 6, 10, 12] and back.frame(0)[..., 0].max() < 120
    assert drawn_box(back.frame(1), 0) == [15, 7, 10, 12] and back.frame(1)[..., 1].max() < 120
    assert not back.frame(2).any() and np.isnan(back.boxes[2]).all() and back.visible.tolist() == [True, False, False]


PLAIN = ("--set", "data.synthetic.frames=20", "--set", "data.synthetic.noise=[0, 0]")


def test_an_export_that_was_stopped_has_not_its_name_and_is_done_again(tmp_path):
    class Stopping(Dark):
        stops = True

        def frame(self, index):
            if index == 1 and self.stops:
                raise KeyboardInterrupt
            return super().frame(index)

    sequence = Stopping()
    for write, name in ((export_folder, "clip"), (export_video, "clip.mp4")):
        sequence.stops = True
        with pytest.raises(KeyboardInterrupt):
            write(sequence, tmp_path / name)
        assert not (tmp_path / name).exists()
        sequence.stops = False
        write(sequence, tmp_path / name)
        assert (tmp_path / name).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "clip.mp4"]


def test_export_as_a_video(tmp_path):
    """As many frames, even sides, and each frame's nearest is itself."""
    run("render", tmp_path / "clip.mp4", "--seed", 3, *PLAIN, "--set", "data.synthetic.width=321")
    config = load_config("synthetic_tiny", [*PLAIN[1::2], "data.synthetic.width=321"]).data.synthetic
    sequence = synthetic_sequence(config, 3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], dtype=float)
    assert frames.shape == (20, 240, 322, 3)
    for i in (0, 9, 19):
        assert np.abs(frames[:, :, :321] - sequence.frame(i)).mean(axis=(1, 2, 3)).argmin() == i


def test_what_cannot_be_trained_on_or_tracked_is_a_fault(whole):
    """Sequences that are all too short; held-out ones that no tracker can be told the target of."""
    trees.write_got10k(whole / "got", "train", count=10, sequences=3)
    trees.write_boxes(whole / "own" / "groundtruth.txt", [[np.nan] * 4, *trees.boxes_of(29)])
    status, lines, found = checked(whole)
    assert status == 1 and found["train.got"]["too_short"] == 3 and found["held_out.own"]["too_short"] == 0
    assert lines[4:] == [
        "train.got: no sequence has 20 frames with 5 of them visible",
        "held_out.own: own: expected a box in the first frame and in another",
    ]
    shutil.rmtree(whole / "own")
    trees.write_folder(whole / "own", 6)  # short, and held out
    assert checked(whole)[2]["held_out.own"]["faults"] == []


def test_pictures_for_rendered_video(tmp_path):
    """Every one is opened; what cannot be read is named, and rendering leaves it out."""
    folder = trees.write_cutouts(tmp_path / "cutouts")
    data = (folder / "ellipse.png").read_bytes()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "photos").mkdir()
    trees.write_frame(tmp_path / "photos" / "0.jpg", 7)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"none")
    values = {
        "root": str(tmp_path),
        "train": {"it": {"kind": "synthetic", "limit": 2}},
        "synthetic": {"cutouts": "cutouts", "cutout": 1.0, "photographs": "photos", "photographic": 1.0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": values}))
    status, output = run("check", tmp_path / "config.yaml")
    assert status == 1
    assert output.splitlines()[4:] == [
        f"synthetic.photographs: {tmp_path}/photos/1.jpg: not an image that OpenCV reads (4 bytes)",
        f"synthetic.cutouts: {folder}/half.png: the PNG is cut off, or a length in it is damaged "
        f"({len(data) // 2} bytes)",
    ]
