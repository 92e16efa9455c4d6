"""What a GPU does of a frame besides the model, on a CPU: crops against OpenCV's, tracks against the usual ones."""

import numpy as np
import pytest
import torch

from grm.config import load_config
from grm.crop import CropRegion, crop_image
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.model import load_model
from grm.tracking import Tracker, TrackingNetwork, recorded
from grm.tracking.device_crop import cut_crops, pack_crops
from grm.weights import find_weights

from ..model.small import small_model
from .scenes import noise_frames

# OpenCV's weights have 11 bits: each of its two directions is off by half of 2^-11 of at most 255 levels. Its first
# sums are cut off to 7 bits, and each of the two products of the second to quarters of a level, whose sum it rounds
# half up to levels: at most 3/4 below. Our own sums in float32 are off by a few roundings of 255.
FLOAT = 255 * 8 * 2**-24
LEVELS = 0.75 + 2 * 255 * 2**-12 + 2**-7 + FLOAT
# A frame of noise, of odd sides; regions within it, over each edge and corner, around it, beside it, and of one pixel.
FRAME = np.random.default_rng(0).integers(0, 256, (95, 131, 3), dtype=np.uint8)
REGIONS = [
    *(CropRegion(x, y, side) for x in (0.5, 40.25, 128) for y in (-3.5, 50, 93.5) for side in (7, 64, 90)),
    CropRegion(65, 47, 400), CropRegion(-60, 20, 40), CropRegion(65, 47, 1), CropRegion(65, 47, 3),
    CropRegion(30.5, 30.5, 32),
]  # fmt: skip


@pytest.mark.parametrize("size", [32, 64, 45])
def test_crops_are_those_of_opencv(size):
    packed = pack_crops([(FRAME, REGIONS)], pinned=False)
    cut = cut_crops(packed.data, packed.regions, size).permute(0, 2, 3, 1).numpy()
    for region, crop in zip(REGIONS, cut, strict=True):
        assert np.abs(crop - crop_image(FRAME, region, size)).max() <= LEVELS, region


@pytest.mark.parametrize("size", [32, 45])
def test_crops_are_bilinear(size):
    """Against the definition written out, in float64, pixel by pixel."""
    for region in REGIONS[::5]:
        data = pack_crops([(FRAME, [region])], pinned=False).data
        got = cut_crops(data, 1, size)[0].permute(1, 2, 0).numpy()
        shown = np.zeros((region.side, region.side, 3))
        for row in range(region.side):
            for column in range(region.side):
                y, x = region.top + row, region.left + column
                if 0 <= y < FRAME.shape[0] - 1 and 0 <= x < FRAME.shape[1] - 1:
                    shown[row, column] = FRAME[y, x]
        place = np.clip((np.arange(size) + 0.5) * region.side / size - 0.5, 0, region.side - 1)
        lower = np.floor(place).astype(int)
        upper, part = np.minimum(lower + 1, region.side - 1), place - lower
        rows = shown[lower] * (1 - part[:, None, None]) + shown[upper] * part[:, None, None]
        expected = rows[:, lower] * (1 - part[:, None]) + rows[:, upper] * part[:, None]
        assert got == pytest.approx(expected, abs=FLOAT)


def test_frames_of_any_strides_and_of_fewer_pixels_than_there_is_room_for():
    region = [CropRegion(40, 30, 50)]
    data = pack_crops([(FRAME, region)], pinned=False).data
    mirrored = pack_crops([(np.ascontiguousarray(FRAME[:, ::-1])[:, ::-1], region)], pinned=False).data
    longer = torch.cat([data, torch.full((30,), 255, dtype=torch.uint8)])
    assert torch.equal(mirrored, data)
    assert torch.equal(cut_crops(longer, 1, 32), cut_crops(data, 1, 32))


def test_crops_of_several_frames_are_those_of_each():
    """Bit for bit, whatever their sizes; a frame may have no region."""
    frames = [FRAME, FRAME[:40, ::2], np.ascontiguousarray(FRAME[::-1, :77])]
    views = [(frames[0], REGIONS[:3]), (frames[1], []), (frames[1], REGIONS[5:9]), (frames[2], REGIONS[9:10])]
    packed = pack_crops(views, pinned=False)
    alone = [cut_crops(pack_crops([view], pinned=False).data, len(view[1]), 45) for view in views if view[1]]
    assert packed.regions == 8 and torch.equal(cut_crops(packed.data, 8, 45), torch.cat(alone))


def track(tracker, frames, boxes):
    tracker.initialize(frames[0], boxes)
    return [tracker.track(frame) for frame in frames[1:]]


def test_the_same_boxes_are_found():
    """In a rendered sequence, by the shipped weights, from the same box in every frame.

    Crops on the device are within a level of OpenCV's. Boxes may be as far from the usual ones as those of crops to
    which noise of one level is added; here that is 0.001 of the region's side.
    """
    sequence = synthetic_sequence(load_config("synthetic_tiny").data.synthetic, HELD_OUT + 5)
    model, chance = load_model(find_weights("tiny")), np.random.default_rng(0)
    usual, device, noisy = Tracker(model), Tracker(model, crop_on_device=True), Tracker(model)
    clean = noisy.network.crops
    noisy.network.crops = lambda *arguments: [
        np.clip(crop + chance.integers(-1, 2, crop.shape), 0, 255).astype(np.uint8) for crop in clean(*arguments)
    ]
    for tracker in (usual, device, noisy):
        tracker.initialize(sequence.frame(0), sequence.boxes[0])
    distances = []
    for index in range(1, 9):
        expected, *others = (tracker.track(sequence.frame(index)) for tracker in (usual, device, noisy))
        distances.append([np.abs(other.box - expected.box).max() / expected.region.side for other in others])
        device.boxes, noisy.boxes = usual.boxes.copy(), usual.boxes.copy()
    device_distance, noise_distance = np.transpose(distances)
    assert device_distance.mean() <= noise_distance.mean() and device_distance.max() <= noise_distance.max()
    assert noise_distance.max() < 0.005


def test_several_targets_on_the_device():
    frames, boxes = noise_frames(5), [(40, 30, 20, 13), (80, 50, 12, 25), (-4, -3, 15, 15)]
    usual, device = (track(Tracker(small_model(), crop_on_device=forced), frames, boxes) for forced in (False, True))
    for expected, got in zip(usual, device, strict=True):
        assert got.box.shape == (3, 4) and got.division.shape == expected.division.shape
        assert got.box == pytest.approx(expected.box, abs=1) and got.score == pytest.approx(expected.score, abs=0.02)


@pytest.fixture
def recording(monkeypatch):
    """Stands in for CUDA graphs: what was recorded is called again, into the same result. Gives how often that was."""
    recordings = []

    def record(call, device):
        result = call()
        recordings.append(result.shape)
        return lambda: result.copy_(call()), result

    monkeypatch.setattr(recorded, "record", record)
    return recordings


def replaying(forced):
    network = TrackingNetwork(small_model(), crop_on_device=forced)
    network._steps = {}  # as with cuda_graph=True
    return Tracker(network)


@pytest.mark.parametrize("forced", [False, True])
def test_replayed_steps_give_the_same(recording, forced):
    """A step is recorded for each number of targets; results of earlier frames stay what they were."""
    frames, boxes = noise_frames(6), np.array([(40, 30, 20, 13), (80, 50, 12, 25)])
    tracker = replaying(forced)
    for chosen in (boxes, boxes[:1], boxes[::-1]):
        expected = track(Tracker(small_model(), crop_on_device=forced), frames, chosen)
        for a, b in zip(track(tracker, frames, chosen), expected, strict=True):
            assert np.array_equal(a.box, b.box) and np.array_equal(a.score, b.score)
            assert np.array_equal(a.division, b.division)
    assert len(recording) == 2


def test_a_recorded_step_serves_frames_that_are_no_larger(recording):
    tracker = replaying(True)
    for height, width, count in ((90, 120, 1), (60, 90, 1), (90, 120, 1), (96, 120, 2), (90, 120, 2)):
        frames = noise_frames(3, height, width)
        expected = track(Tracker(small_model(), crop_on_device=True), frames, (40, 30, 20, 13))
        for a, b in zip(track(tracker, frames, (40, 30, 20, 13)), expected, strict=True):
            assert np.array_equal(a.box, b.box)
        assert len(recording) == count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_crops_of_a_gpu():
    packed = pack_crops([(FRAME, REGIONS)], pinned=True)
    expected = cut_crops(packed.data, packed.regions, 64)
    got = cut_crops(packed.data.to("cuda", non_blocking=True), packed.regions, 64).cpu()
    assert got.numpy() == pytest.approx(expected.numpy(), abs=FLOAT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_what_a_cpu_finds():
    frames, boxes = noise_frames(5), [(40, 30, 20, 13), (80, 50, 12, 25)]
    expected = track(Tracker(small_model(), crop_on_device=True), frames, boxes)
    for a, b in zip(track(Tracker(small_model(), device="cuda"), frames, boxes), expected, strict=True):
        assert a.box == pytest.approx(b.box, abs=1e-2)
