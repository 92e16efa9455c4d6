"""Augmentation against hand-computed values, and boxes against the pixels that they belong to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grm.config import JitterConfig
from grm.crop import CropRegion, crop_image
from grm.data.augmentation import (
    degraded,
    jitter_box,
    mirror_box,
    mirror_label,
    mirrored,
    recolored,
    stretched,
    without_color,
)


def bright_square(width=90, height=60, box=(20, 30, 12, 8)):
    x, y, w, h = box
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y : y + h, x : x + w] = 200
    return image, np.array(box, dtype=np.float64)


def centroid(image):
    """Of the brightness, in indices of pixels."""
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def test_mirrored_boxes_by_hand():
    assert mirror_box(np.array([20.0, 30.0, 12.0, 8.0]), 90).tolist() == [57, 30, 12, 8]  # 90 - 1 - 20 - 12
    assert mirror_label(np.array([0.3, 0.4, 0.2, 0.1])).tolist() == [0.7, 0.4, 0.2, 0.1]  # 1 - (0.3 - 0.1) - 0.2 + 0.1


def test_mirrored_box_follows_its_pixels():
    """A box has its middle half a pixel after its pixels do; one pixel less once mirrored, as published."""
    image, box = bright_square()
    assert box[:2] + box[2:] / 2 - centroid(image) == pytest.approx([0.5, 0.5])
    flipped = mirror_box(box, image.shape[1])
    assert flipped[:2] + flipped[2:] / 2 - centroid(mirrored(image)) == pytest.approx([0.5 - 1, 0.5])


def test_mirrored_label_follows_its_pixels():
    """Labels count in indices of pixels; one pixel more once mirrored, as published."""
    image, box = bright_square()
    region, size = CropRegion(30, 32, 40), 160
    crop, label = crop_image(image, region, size), region.to_crop(box, size)
    assert label[:2] * size == pytest.approx(centroid(crop), abs=0.01)
    assert mirror_label(label)[:2] * size - centroid(mirrored(crop)) == pytest.approx([1, 0], abs=0.01)


@given(
    st.tuples(*[st.floats(-100, 100)] * 2, *[st.floats(1, 100)] * 2),
    st.integers(1, 1000),
    st.tuples(*[st.floats(-2, 2)] * 4),
)
def test_mirroring_twice_changes_nothing(box, width, label):
    assert mirror_box(mirror_box(np.array(box), width), width) == pytest.approx(box, abs=1e-9)
    assert mirror_label(mirror_label(np.array(label))) == pytest.approx(label, abs=1e-12)


class FixedNumbers:
    """A generator whose numbers are known."""

    def standard_normal(self, count):
        return np.array([1.0, -2.0])

    def uniform(self, low, high, count):
        return low + (high - low) * np.array([0.75, 0.0])


def test_jitter_by_hand():
    box = jitter_box(np.array([10.0, 20.0, 30.0, 40.0]), JitterConfig(scale=0.25, center=1.5), FixedNumbers())
    w, h = 30 * np.exp(0.25), 40 * np.exp(-0.5)
    reach = 1.5 * np.sqrt(w * h)
    assert box == pytest.approx([25 + 0.5 * reach - w / 2, 40 - reach - h / 2, w, h], rel=1e-14)


def test_jitter_spreads_as_configured():
    """Over 4,000 draws: the log of the sizes has the deviation asked for, the centre fills its square evenly."""
    rng, box = np.random.default_rng(0), np.array([10.0, 20.0, 30.0, 40.0])
    jittered = np.array([jitter_box(box, JitterConfig(scale=0.5, center=2.25), rng) for _ in range(4000)])
    logs = np.log(jittered[:, 2:] / box[2:])
    # Deviations of a mean and of a deviation over n draws: sigma / sqrt(n), sigma / sqrt(2 n). Five of them.
    assert np.abs(logs.mean(0)).max() < 5 * 0.5 / np.sqrt(4000)
    assert np.abs(logs.std(0) - 0.5).max() < 5 * 0.5 / np.sqrt(8000)
    area = np.sqrt(jittered[:, 2:].prod(1))
    moved = (jittered[:, :2] + jittered[:, 2:] / 2 - (25, 40)) / area[:, None]
    assert np.abs(moved).max() <= 2.25 and np.abs(moved).max() > 2.24
    assert np.abs(moved.std(0) - 2.25 / np.sqrt(3)).max() < 0.1


def test_no_jitter_is_the_box_itself():
    box = np.array([10.0, 20.0, 30.0, 40.0])
    assert jitter_box(box, JitterConfig(scale=0, center=0), np.random.default_rng(0)).tolist() == box.tolist()


def test_gray_weighs_red_as_red():
    """ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B."""
    image = np.array([[[100, 0, 0], [0, 0, 100]]], dtype=np.uint8)
    assert without_color(image).tolist() == [[[30] * 3, [11] * 3]]


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_a_stretched_box_follows_its_pixels(factor):
    """Within what the rounding of the image's size and a blurred edge leave; the area stays."""
    image, box = bright_square()
    wide, moved = stretched(image, box, factor)
    assert wide.shape[1] * wide.shape[0] == pytest.approx(90 * 60, rel=0.02)
    assert moved[2] / moved[3] == pytest.approx(12 / 8 * factor, rel=0.03)
    assert moved[:2] + moved[2:] / 2 - centroid(wide) == pytest.approx([0.5, 0.5], abs=0.1)
    assert (wide[..., 0] > 100).sum() == pytest.approx(12 * 8, rel=0.15)


def test_recolored_around_middle_grey():
    """Grey images stay grey in the mean; without strength nothing changes."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(recolored(image, 0.0, rng), image)
    means = [recolored(np.full((2, 2, 3), 128, np.uint8), 0.1, rng).mean() for _ in range(400)]
    assert np.mean(means) == pytest.approx(128, abs=2) and np.std(means) > 2


def test_degraded_images_have_less_detail_and_the_same_form():
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    detail = lambda x: np.abs(np.diff(x.astype(float), axis=1)).mean()  # noqa: E731
    worse = [degraded(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in worse)
    assert np.mean([detail(x) for x in worse]) < 0.7 * detail(image)
    assert all(abs(x.mean() - image.mean()) < 4 for x in worse)
    assert len({x.tobytes() for x in worse}) > 25
