"""What is drawn, and the attention that is looked at."""

import cv2
import numpy as np
import pytest
import torch

from grm.crop import CropRegion
from grm.drawing import (
    COLORS,
    darken_separate,
    division_strip,
    draw_boxes,
    save_attention_picture,
    show_region,
)
from grm.sheet import TRACKED, TRUE, Band, Shot, Tile, division_band, layer_tile, save_sheet, search_tile
from grm.tracking.attention_maps import template_attention
from grm_kernels.categories import one_hot
from grm_kernels.reference import interaction_mask

from ..model.small import images, small_model


def test_boxes_are_drawn_where_they_are():
    frame = np.full((100, 150, 3), 128, np.uint8)
    drawn = draw_boxes(frame, np.array([[20.0, 30.0, 50.0, 40.0], [90.0, 10.0, 30.0, 60.0]]), ["0.9", "b"])
    assert (frame == 128).all()  # a copy
    for (x, y), color in {(45, 30): COLORS[0], (70, 50): COLORS[0], (90, 40): COLORS[1], (105, 70): COLORS[1]}.items():
        assert np.abs(drawn[y, x].astype(int) - color).max() < 40
    assert (drawn[45:60, 35:60] == 128).all()  # not inside


def test_broken_lines():
    """All corners are drawn, and four of seven parts of each side."""
    frame = np.zeros((200, 300, 3), np.uint8)
    box = np.array([[20.0, 30.0, 210.0, 140.0]])
    drawn = draw_boxes(frame, box, [""], [True]).max(-1) > 100
    whole = draw_boxes(frame, box, [""], [False]).max(-1) > 100
    around = cv2.dilate(whole.astype(np.uint8), np.ones((3, 3))) > 0  # ends of thick lines are round
    assert all(drawn[y, x] for x in (20, 230) for y in (30, 170)) and not (drawn & ~around).any()
    for side in (np.s_[30, 20:231], np.s_[170, 20:231], np.s_[30:171, 20], np.s_[30:171, 230]):
        assert whole[side].all() and 4 / 7 < drawn[side].mean() < 5 / 7


def test_separate_tokens_are_dark():
    crop = np.full((64, 64, 3), 200, np.uint8)
    division = np.array([[1, 2, 2, 2], [2, 0, 2, 2], [2, 2, 1, 2], [2, 2, 2, 2]], np.uint8)
    dark = darken_separate(crop, division) < 100
    expected = np.kron(division == 1, np.ones((16, 16), bool))
    assert np.array_equal(dark[..., 0], expected)


def test_strip_has_a_row_for_each_target_and_a_column_for_each_layer():
    frame = np.full((100, 200, 3), 255, np.uint8)
    divisions = np.full((2, 3, 4, 4), 2, np.uint8)
    divisions[1, 2] = 1  # second target, layer 3: all S
    regions = [CropRegion(50, 50, 40), CropRegion(80, 50, 40)]
    strip = division_strip(frame, regions, divisions, [1, 3])
    height, side = strip.shape[0] // 2, 100
    assert strip.shape[1:] == (200, 3) and height > side
    tiles = [
        [strip[(r + 1) * height - side : (r + 1) * height, c * side : (c + 1) * side] for c in (0, 1)] for r in (0, 1)
    ]
    assert [[tile.mean() > 200 for tile in row] for row in tiles] == [[True, True], [True, False]]


@pytest.mark.parametrize(("width", "columns"), [(64, 1), (100, 1), (320, 3), (900, 8), (2000, 8)])
def test_strips_of_small_videos_have_tiles_that_can_be_read(width, columns):
    """Of 96 pixels or as wide as the frame; no layer is left out."""
    frame = np.full((100, width, 3), 255, np.uint8)
    divisions = np.full((1, 8, 4, 4), 2, np.uint8)
    strip = division_strip(frame, [CropRegion(30, 50, 40)], divisions, range(1, 9))
    rows, side = -(-8 // columns), min(width // columns, 192)
    assert side >= min(width, 96) and strip.shape[1] == width
    whole = (strip > 250).all(-1)
    assert rows * side <= len(strip) <= rows * (side + 20) and abs(whole.sum() - 8 * side**2) < 0.01 * 8 * side**2


@pytest.mark.parametrize(
    "overrides", [(), ("division.variant=tsa",), ("division.soft=true",), ("division.fixed={2: S}",)]
)
def test_attention_is_the_softmax_of_the_definition(overrides):
    """Against the whole masked softmax in float64, from the model's own q, k and division."""
    model = small_model(*overrides)
    layer, seen = model.encoder.layers[1].attention, []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output[1])))
    with torch.no_grad():
        model(*images())
        handle.remove()
        x, division = seen[0]
        q, k, _ = layer.heads_of(x)
        categories, policy = layer.with_template(division)
        policy = one_hot(categories) if policy is None else policy
        scores = (q.double() @ k.double().transpose(2, 3)) * q.shape[-1] ** -0.5
        weights = interaction_mask(policy.double())[:, None] * scores.exp()
        expected = (weights / weights.sum(-1, keepdim=True))[:, :, :4, 4:].mean((1, 2)).unflatten(1, (4, 4))
    got = template_attention(model, *images(), [3, 2])
    assert got.shape == (3, 2, 4, 4)
    assert np.abs(got[:, 1] - expected.numpy()).max() < 1e-6
    assert (got[:, 1] > 0).any() or "division.fixed={2: S}" in overrides


def test_nothing_is_left_behind_by_looking():
    model = small_model()
    with pytest.raises(ValueError, match="search"):
        template_attention(model, images()[0], torch.zeros(3, 3, 16, 16), [1])
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_outside_of_the_frame_is_told_from_what_is_dark():
    """A black frame: what is outside is blue, where its pixels are, in whatever size it is shown."""
    frame = np.zeros((60, 80, 3), np.uint8)
    region = CropRegion(70, 50, 40)  # columns 50 to 90 and rows 30 to 70: a quarter to the right and below is outside
    for size in (40, 160):
        shown = show_region(frame, region, size)
        inside = np.zeros((size, size), bool)
        inside[: size * 3 // 4, : size * 3 // 4] = True
        assert not shown[inside].any() and (shown[~inside].astype(int) @ (-1, 0, 1) > 60).all()
        assert len(np.unique(shown[~inside], axis=0)) == 2  # striped
    assert (show_region(frame + np.uint8(9), CropRegion(40, 30, 20), 30) == 9).all()


def one_shot(layers=8, value=210):
    """The upper left quarter of the search region is S in layer 3."""
    division = np.full((layers, 4, 4), 2, np.uint8)
    division[2, :2, :2] = 1
    boxes = np.array([[52.0, 33, 10, 8], [np.nan] * 4])
    return Shot(np.full((60, 80, 3), value, np.uint8), CropRegion(40, 30, 40), division, *boxes)


def test_tiles_of_a_division():
    shot = one_shot()
    tile = layer_tile(shot, 3)
    side = tile.image.shape[0]
    dark = tile.image.max(-1) < 100
    assert dark[: side // 2, : side // 2].all() and dark.sum() == side**2 // 4
    assert tile.caption == "layer 3: 25% S, 75% A" and layer_tile(shot, 1).caption == "layer 1: all A"
    (tracked, color), (true, _) = search_tile(shot, "").boxes
    # The region is 40 pixels wide, its corner at (20, 10).
    assert color == TRACKED and tracked == pytest.approx(np.array([32, 23, 10, 8]) * side / 40) and np.isnan(true).all()
    band = division_band(shot, "title", range(1, 9))
    assert [[tile is None for tile in row] for row in band.rows] == [[False] * 6, [True] * 2 + [False] * 4]


def test_sheets_show_what_they_should(tmp_path):
    """The darker quarter of one tile, and the colours of the boxes that are known and of no others."""
    shot, size = one_shot(), {}
    for name, true in (("one", shot.true), ("two", np.array([30.0, 20, 12, 12]))):
        save_sheet(tmp_path / f"{name}.png", [division_band(shot._replace(true=true), "frame 1", [1, 3])], "title")
        picture = cv2.imread(str(tmp_path / f"{name}.png"))[:-50, :, ::-1].astype(int)  # without what colours mean
        size[name] = picture.shape
        for color, there in ((TRACKED, True), (TRUE, name == "two")):
            assert (np.abs(picture - color).max(-1) < 12).any() == there
        assert 0.02 < (np.abs(picture - 63).max(-1) < 3).mean() < 0.06  # of four tiles and what is between them
    assert size["one"] == size["two"]
    save_sheet(tmp_path / "sheet.pdf", [division_band(shot, "frame 1", [1])._replace(rows=[[Tile(shot.frame)]])], "")
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")


def test_attention_pictures_show_what_they_should(tmp_path):
    template, search = np.full((32, 32, 3), 90, np.uint8), np.full((64, 64, 3), 210, np.uint8)
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, 2, 1] = 0.5
    save_attention_picture(tmp_path / "attention.png", template, search, maps, [1, 3])
    assert cv2.imread(str(tmp_path / "attention.png")).std() > 20


@pytest.mark.parametrize("columns", [3, 4, 6])
def test_what_colours_mean_is_readable_in_sheets_of_any_width(tmp_path, monkeypatch, columns):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: figures.append(figure))
    tile = Tile(np.zeros((8, 8, 3), np.uint8))
    save_sheet(tmp_path / "sheet.png", [Band("band", [[tile] * columns])], "title")
    (figure,) = figures
    legend, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert 0 <= legend.x0 and legend.x1 <= whole.x1
    assert 0 <= legend.y0 and legend.y1 <= figure.axes[0].get_window_extent().y0
