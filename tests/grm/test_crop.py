"""Crops and boxes against the published rules, worked out by hand, and against an image that is a known function."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grm.boxes import as_boxes, clip_boxes, iou
from grm.crop import CropRegion, crop_image, crop_region


def ramp(height, width):
    """Pixel (y, x) is (x + 1, y + 1, 255): never black."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x + 1, y + 1, np.full_like(x, 255)], axis=-1).astype(np.uint8)


def pixels(region, frame):
    """The region's own pixels, not scaled."""
    return crop_image(frame, region, region.side)


@pytest.mark.parametrize(
    ("box", "factor", "side", "left", "top"),
    [
        ((30, 20, 10, 10), 2.0, 20, 25, 15),
        ((30, 20, 10, 9), 2.0, 19, 26, 15),  # sqrt(90) * 2 = 18.97; 35 - 9.5 = 25.5 -> 26, 24.5 - 9.5 = 15
        ((29, 20, 10, 9), 2.0, 19, 24, 15),  # 34 - 9.5 = 24.5 -> 24: halves go to the even one
        ((29.6, 20, 10, 9), 2.0, 19, 25, 15),
        ((-30, -20, 10, 10), 4.0, 40, -45, -35),
        ((5, 7, 1, 1), 2.0, 2, 4, 6),  # 5.5 - 1 = 4.5 -> 4, 7.5 - 1 = 6.5 -> 6
        ((0.2, 0.3, 0.1, 0.1), 4.0, 1, 0, 0),
    ],
)
def test_region(box, factor, side, left, top):
    region = crop_region(as_boxes(box), factor)
    assert (region.side, region.left, region.top) == (side, left, top)


def test_inside_is_the_frame_itself():
    frame = ramp(60, 80)
    assert np.array_equal(pixels(CropRegion(40, 30, 20), frame), frame[20:40, 30:50])


def test_left_and_top_edge():
    crop = pixels(CropRegion(5, 3, 20), ramp(60, 80))  # columns -5 ... 14, rows -7 ... 12
    assert not crop[:, :5].any() and not crop[:7].any()
    assert np.array_equal(crop[7:, 5:], ramp(13, 15))


@pytest.mark.parametrize("right, shown", [(78, 20), (79, 20), (80, 19), (81, 18), (90, 9), (99, 0), (120, 0)])
def test_right_edge_blackens_the_last_column(right, shown):
    """The padding is max(0, right - width + 1): column 79 of 80 is never seen."""
    frame = ramp(60, 80)
    region = CropRegion(right - 10, 30, 20)
    crop = pixels(region, frame)
    assert np.array_equal(crop[:, :shown], frame[20:40, right - 20 : right - 20 + shown])
    assert not crop[:, shown:].any()
    assert region.holds_pixels(80, 60) == (shown > 0)


def test_bottom_edge_blackens_the_last_row():
    frame = ramp(60, 80)
    crop = pixels(CropRegion(40, 50, 20), frame)  # rows 40 ... 59
    assert np.array_equal(crop[:19], frame[40:59, 30:50])
    assert not crop[19].any()


@pytest.mark.parametrize(
    "center", [(-200, 30), (200, 30), (40, -200), (40, 200), (-11, 30), (90, 30), (40, -15), (40, 70), (-15, -15)]
)
def test_outside_is_black(center):
    region = CropRegion(*center, 20)
    assert not region.holds_pixels(80, 60)
    assert not crop_image(ramp(60, 80), region, 16).any()


@given(
    st.floats(-60, 140), st.floats(-60, 120), st.integers(1, 150), st.sampled_from([16, 32, 100, 192]), st.booleans()
)
def test_the_grid_of_samples_is_the_published_one(x, y, side, size, mirrored):
    """The mask of padding as an image: scaled, flipped, and sampled to the nearest, all at once in two dimensions."""
    region = CropRegion(x, y, side)
    padding = np.ones((side, side))
    columns = np.arange(region.left, region.left + side)
    rows = np.arange(region.top, region.top + side)
    padding[np.ix_((rows >= 0) & (rows < 59), (columns >= 0) & (columns < 79))] = 0
    scaled = torch.from_numpy(cv2.resize(padding, (size, size)) != 0)
    scaled = scaled.flip(1) if mirrored else scaled
    samples = torch.nn.functional.interpolate(scaled[None, None].float(), size=size // 16)
    assert region.grid_holds_pixels(80, 60, size, mirrored=mirrored) == bool((samples == 0).any())


def test_frame_smaller_than_the_region():
    crop = pixels(CropRegion(4, 3, 20), ramp(6, 8))  # columns -6 ... 13, rows -7 ... 12
    assert np.array_equal(crop[7:12, 6:13], ramp(6, 8)[:5, :7])
    assert crop.any(axis=-1).sum() == 5 * 7


def test_scaling_is_bilinear():
    """Where no edge is near, pixel u of the crop shows the frame at left + (u + 1/2) side / size - 1/2."""
    region, size, slope = CropRegion(100, 100, 40), 64, 5
    frame = np.zeros((200, 200, 3), dtype=np.uint8)
    frame[:, 80:120] = slope * np.arange(40, dtype=np.uint8)[None, :, None]
    crop = crop_image(frame, region, size)
    u = np.arange(1, size - 1)
    expected = slope * ((u + 0.5) * region.side / size - 0.5)
    # OpenCV computes in integers; a grid that is off by half a pixel of the crop would be 5 * 40 / 64 / 2 = 1.6 off.
    assert np.abs(crop[size // 2, 1:-1, 0] - expected).max() < 1


def test_boxes_go_to_the_crop_by_the_published_formula():
    region, size = CropRegion(100.3, 50.7, 80), 256
    scale = size / region.side
    center_x = ((size - 1) / 2 + (90 + 15 - 100.3) * scale) / size
    center_y = ((size - 1) / 2 + (40 + 10 - 50.7) * scale) / size
    expected = [center_x, center_y, 30 * scale / size, 20 * scale / size]
    assert region.to_crop(np.array([90.0, 40.0, 30.0, 20.0]), size) == pytest.approx(expected, abs=1e-14)


def test_predictions_go_to_the_frame_by_the_published_formula():
    region, size = CropRegion(100.3, 50.7, 80), 256
    scale = size / region.side
    x = 0.6 * size / scale + 100.3 - size / (2 * scale)
    y = 0.45 * size / scale + 50.7 - size / (2 * scale)
    width, height = 0.2 * size / scale, 0.1 * size / scale
    box = region.to_frame(np.array([0.6, 0.45, 0.2, 0.1], dtype=np.float64), size)
    assert box == pytest.approx([x - width / 2, y - height / 2, width, height], abs=1e-12)


@pytest.mark.parametrize("center", [100.0, 100.25, 100.75])
def test_exact_mapping_undoes_rounding_and_half_a_pixel(center):
    """The crop of a bright square, found as the centroid of its pixels, goes back to where the square is."""
    frame = np.zeros((200, 200, 3), dtype=np.uint8)
    frame[96:106, 91:101] = 255
    region, size = CropRegion(center, center, 61), 244  # whole pixels: 4 for 1
    crop = crop_image(frame, region, size)[..., 0].astype(np.float64)
    index = np.arange(size)
    centroid = np.array([crop.sum(0) @ index, crop.sum(1) @ index]) / crop.sum()  # in indices of pixels, as in training
    predicted = np.array([*centroid / size, 10 / 61, 10 / 61])
    truth = np.array([91.0, 96.0, 10.0, 10.0])
    assert region.to_frame(predicted, size, "exact") == pytest.approx(truth, abs=1e-6)
    off = region.to_frame(predicted, size)[:2] - truth[:2]
    rounding = center - region.side / 2 - region.left
    assert off == pytest.approx(rounding - 0.5 * region.side / size, abs=1e-6)


@pytest.mark.parametrize("mapping, error", [("exact", 0), ("published", 0.5 * 80 / 256)])
def test_mappings_against_the_label(mapping, error):
    """Where nothing was rounded, the exact mapping inverts the label; the published one is half a crop pixel off."""
    region, box = CropRegion(100, 50, 80), np.array([[90.0, 40.0, 30.0, 20.0], [70.0, 45.0, 8.0, 16.0]])
    back = region.to_frame(region.to_crop(box, 256), 256, mapping)
    assert np.abs(back - box)[..., :2] == pytest.approx(error, abs=1e-12)
    assert back[..., 2:] == pytest.approx(box[..., 2:], abs=1e-12)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((20, 20, 30, 15), (20, 20, 30, 15)),
        ((-5, 20, 30, 15), (0, 20, 25, 15)),
        ((60, 20, 30, 15), (60, 20, 20, 15)),
        ((75, 20, 30, 15), (70, 20, 10, 15)),  # x1 to width - 10
        ((-40, 20, 30, 15), (0, 20, 10, 15)),  # x2 to 10
        ((200, 300, 5, 5), (70, 50, 10, 10)),
        ((-200, -300, 5, 5), (0, 0, 10, 10)),
        ((40, 30, 1, 1), (40, 30, 10, 10)),
        ((-100, -100, 400, 400), (0, 0, 80, 60)),
        ((69.5, 20, 10.5, 15), (69.5, 20, 10.5, 15)),
    ],
)
def test_clipping(box, clipped):
    assert clip_boxes(np.array([box], dtype=np.float64), 80, 60).tolist() == [list(clipped)]


def test_iou():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], dtype=np.float64)
    b = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 10, 5, 5], [0, 0, 0, 0]], dtype=np.float64)
    assert iou(a, b).tolist() == [1, 1 / 3, 0, 0]


@pytest.mark.parametrize("box", [(1, 2, 3), 5.0, (1, 2, 0, 4), (1, 2, 3, -4), (1, 2, math.nan, 4), (math.inf, 2, 3, 4)])
def test_bad_boxes_are_refused(box):
    with pytest.raises(ValueError, match="box: expected"):
        as_boxes(box)
