"""Photographic cut-outs: their shapes, video of them, and the folders that hold them."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from grm.config import SyntheticConfig, parse_config
from grm.data import training_pairs
from grm.data.synthetic import synthetic_sequence
from grm.data.synthetic.cutout import cutouts
from grm.errors import DataError

from . import trees
from .drawn import opacity

pytest.importorskip("matplotlib")


def test_cutouts_are_cut_to_their_boxes(tmp_path):
    """By geometry: aspects, filled shares (pi / 4 of an ellipse), and what lies inside."""
    ellipse, box = cutouts(trees.write_cutouts(tmp_path / "cutouts"))
    assert ellipse.aspect == pytest.approx(81 / 41) and box.aspect == pytest.approx(0.5)
    # The middles of 200 x 200 cells of the box.
    grid = np.meshgrid(*[(np.arange(200) + 0.5) / 100 - 1] * 2)
    filled = [shape.holds(*grid).mean() for shape in (ellipse, box)]
    assert filled == pytest.approx([np.pi / 4, 1], abs=0.02)
    for shape in (ellipse, box):
        assert np.abs(shape.corners).max(axis=1) == pytest.approx([1, 1])
        assert shape.corners.min(axis=1) == pytest.approx([-1, -1], abs=0.02)
        assert shape.shares.sum() == pytest.approx(1) and shape.inside.shape[1] >= 32
        assert shape.holds(*shape.inside).all()
        assert not shape.holds(np.array([1.1, 0, -9]), np.array([0, -1.1, 9])).any()
    corner = np.array([0.9]), np.array([0.9])
    assert not ellipse.holds(*corner).any() and box.holds(*corner).all()
    # Sampled between opaque and transparent pixels, colours keep the object's own.
    assert np.abs(box.texture[72, 72].astype(int) - (20, 60, 200)).max() <= 1


def test_video_of_cutouts(tmp_path):
    """Boxes are those of the pixels that are drawn; a function of the seed; photographs lie behind."""
    folder = trees.write_cutouts(tmp_path / "cutouts")
    config = SyntheticConfig(cutouts=folder, cutout=1, photographs=folder, photographic=1, size=(30, 60))
    for seed in range(4):
        sequence = synthetic_sequence(config, seed)
        frame = 11
        assert np.array_equal(synthetic_sequence(config, seed).frame(frame), sequence.frame(frame))
        seen = np.argwhere(opacity(sequence.target, frame) > 0.4)
        (top, left), (bottom, right) = seen.min(0) - 100, seen.max(0) + 1 - 100
        x, y, width, height = sequence.target.boxes(np.array([frame]))[0]
        assert [x, y, x + width, y + height] == pytest.approx([left, top, right, bottom], abs=1.5)


def test_cutouts_keep_their_aspects(tmp_path):
    """All of them, not the target's alone: twice as wide as high, or half; ends of what is drawn beside."""
    folder = trees.write_cutouts(tmp_path / "cutouts")
    plain = {"stretch": 0, "deform": 0, "turn": 0, "aspect": (1, 1), "distractors": (3, 3), "passers": (3, 3)}
    config = SyntheticConfig(cutouts=folder, cutout=1, occlusions=(0, 0), **plain)
    seen = {"target": [], "others": []}
    for seed in range(30):
        sequence = synthetic_sequence(config, seed)
        for sprite in (sequence.target, *sequence._front, *sequence._behind):
            wide, high = sprite.motion.half[0]
            name = "target" if sprite is sequence.target else "others"
            seen[name].append(np.log(wide / high / sprite.shape.aspect))
    assert np.abs(seen["target"]).max() < 1e-9
    # Widths and heights are drawn with a deviation of their logarithms of 0.4 at most; of 180, four deviations.
    assert np.abs(seen["others"]).max() < 4 * 0.4 * np.sqrt(2) and abs(np.mean(seen["others"])) < 4 * 0.57 / np.sqrt(
        180
    )


def test_what_is_no_cutout_is_left_out(tmp_path):
    """Thin lines, before or after an image is made smaller, and a header of more pixels than are read."""
    folder = trees.write_cutouts(tmp_path / "cutouts")
    count = len(cutouts(folder))
    frame, lines, dots = (np.zeros((1200, 1200, 4), dtype=np.uint8) for _ in range(3))
    cv2.rectangle(frame, (50, 50), (1150, 1150), (255, 255, 255, 255), 2)
    lines[100:1100:6, 100:1100] = 255
    dots[100:1100:10, 100:1100:10] = 255
    for name, image in (("frame", frame), ("lines", lines), ("dots", dots)):
        assert cv2.imwrite(str(folder / f"{name}.png"), image)
    (folder / "huge.png").write_bytes(png_header(100_000, 100_000))
    cutouts.cache_clear()
    assert len(cutouts(folder)) == count


def png_header(width, height):
    """A PNG image that states its size and has no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_folder_without_cutouts(tmp_path):
    folder = trees.write_cutouts(tmp_path / "cutouts")
    for name in ("ellipse", "rectangle"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(DataError, match="holds no cut-outs"):
        cutouts(folder)


def test_folders_start_at_the_root(tmp_path):
    trees.write_cutouts(tmp_path / "cutouts")
    values = {
        "root": str(tmp_path),
        "train": {"it": {"kind": "synthetic", "limit": 2}},
        "synthetic": {"cutouts": "cutouts", "cutout": 1.0},
    }
    assert training_pairs(parse_config({"data": values}), 0)[0].template.shape[0] == 3
    values["synthetic"]["cutouts"] = "elsewhere"
    with pytest.raises(DataError, match=f"it: missing: {tmp_path}/elsewhere"):
        training_pairs(parse_config({"data": values}), 0)
