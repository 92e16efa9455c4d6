"""The tracker: that it follows, that it computes what the published one does, and what it says to bad input."""

import math

import cv2
import numpy as np
import pytest
import torch

from grm.errors import BoxError
from grm.model import normalize_images
from grm.tracking import Tracker

from ..model.small import small_model
from .scenes import BOX, brightness_model, noise_frames, square_video


def centers(boxes):
    return boxes[..., :2] + boxes[..., 2:] / 2


def test_follows_a_square():
    corners = [(60 + 5 * i, 50 + round(12 * math.sin(i / 2))) for i in range(12)]
    frames = square_video(corners)
    tracker = Tracker(brightness_model())
    tracker.initialize(frames[0], (*corners[0], 16, 16))
    for frame, corner in zip(frames[1:], corners[1:], strict=True):
        box, score, division, region, _ = tracker.track(frame)
        # Cells are 8 pixels: the middle of one that is in the square is at most 8 from the square's.
        assert np.abs(centers(box) - np.add(corner, 8)).max() <= 8
        assert box[2:] == pytest.approx(BOX * region.side)
        assert 0.5 < score < 1
        assert set(np.unique(division)) == {1, 2}  # the square is A, the dark around it S


def test_stays_in_the_frame():
    corners = [(100 + 8 * i, 100) for i in range(10)]  # leaves at the right
    frames = square_video(corners)
    tracker = Tracker(brightness_model())
    tracker.initialize(frames[0], (*corners[0], 16, 16))
    for frame in frames[1:]:
        x, y, width, height = tracker.track(frame).box
        assert min(width, height) >= 10 and x >= 0 and y >= 0 and x + width <= 160 and y + height <= 120


@pytest.mark.parametrize("seed", range(8))
def test_computes_what_the_published_tracker_does(seed):
    """Against crop, normalisation, window, mapping and clipping written out for one step."""
    model, (first, second, *_) = small_model(), noise_frames(seed=seed)
    box = (41.3, 30.8, 21.0, 13.0)

    def crop(frame, factor, size):
        x, y, w, h = box
        side = math.ceil(math.sqrt(w * h) * factor)
        left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
        padded = np.zeros((side, side, 3), np.uint8)
        for row in range(side):
            for column in range(side):
                if 0 <= top + row < frame.shape[0] - 1 and 0 <= left + column < frame.shape[1] - 1:
                    padded[row, column] = frame[top + row, left + column]
        image = torch.from_numpy(cv2.resize(padded, (size, size))).permute(2, 0, 1)[None].double() / 255
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[..., None, None]
        return side, (image - mean) / deviation

    _, template = crop(first, 2, 32)
    side, search = crop(second, 4, 64)
    hann = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * i / 5) for i in range(1, 5)])  # F + 2 = 6 points, inner 4
    expected = model.double()(template, search, torch.outer(hann, hann).double())
    cx, cy, w, h = expected.boxes[0].tolist()
    scale = 64 / side
    center_x = cx * 64 / scale + (box[0] + box[2] / 2) - 64 / (2 * scale)
    center_y = cy * 64 / scale + (box[1] + box[3] / 2) - 64 / (2 * scale)
    w, h = w * 64 / scale, h * 64 / scale
    x1, y1, x2, y2 = center_x - w / 2, center_y - h / 2, center_x + w / 2, center_y + h / 2
    x1, x2 = min(max(0, x1), 120 - 10), min(max(10, x2), 120)
    y1, y2 = min(max(0, y1), 90 - 10), min(max(10, y2), 90)

    tracker = Tracker(small_model())
    tracker.initialize(first, box)
    track = tracker.track(second)
    assert track.box == pytest.approx([x1, y1, max(10, x2 - x1), max(10, y2 - y1)], abs=1e-3)
    assert track.score == pytest.approx(expected.scores.item(), abs=1e-5)
    categories = torch.stack([d.categories[0].unflatten(0, (4, 4)) for d in expected.divisions]).numpy()
    assert np.array_equal(track.division, categories)


def test_window_is_the_inner_part_of_hanns():
    sine = np.sin(np.pi * np.arange(1, 5) / 5)  # of F + 2 points, for F = 4
    assert Tracker(small_model()).network.window.numpy() == pytest.approx(np.outer(sine**2, sine**2), abs=1e-6)


def test_exact_mapping_is_half_a_crop_pixel_and_the_rounding_away():
    first, second, *_ = noise_frames()
    box = (41.3, 30.8, 21.0, 13.0)
    tracks = []
    for mapping in ("published", "exact"):
        tracker = Tracker(small_model(), mapping=mapping)
        tracker.initialize(first, box)
        tracks.append(tracker.track(second))
    region = tracks[0].region
    rounding = np.array(
        [region.center_x - region.side / 2 - region.left, region.center_y - region.side / 2 - region.top]
    )
    shift = centers(tracks[0].box) - centers(tracks[1].box)
    assert shift == pytest.approx(rounding - region.side / 128, abs=1e-6)


def test_several_targets_are_each_tracked_as_if_alone():
    frames = noise_frames(5)
    boxes = np.array([[40, 30, 20, 13], [80, 50, 12, 25], [-4, -3, 15, 15], [70, 20, 1, 1]], dtype=np.float64)
    together = Tracker(small_model())
    together.initialize(frames[0], boxes)
    tracks = [together.track(frame) for frame in frames[1:]]
    assert tracks[0].box.shape == (4, 4) and tracks[0].division.shape == (4, 4, 4, 4)
    for index, box in enumerate(boxes):
        alone = Tracker(small_model())
        alone.initialize(frames[0], box)
        for frame, track in zip(frames[1:], tracks, strict=True):
            one = alone.track(frame)
            assert one.box == pytest.approx(track.box[index], abs=1e-3)
            assert one.score == pytest.approx(track.score[index], abs=1e-5)
            assert np.array_equal(one.division, track.division[index])
            assert one.region == pytest.approx(track.region[index], abs=1e-3)


def test_initializing_again_forgets_the_first_target():
    frames = noise_frames(3)
    fresh, used = Tracker(small_model()), Tracker(small_model())
    used.initialize(frames[0], [(10, 10, 20, 20), (50, 50, 20, 20)])
    used.track(frames[1])
    for tracker in (fresh, used):
        tracker.initialize(frames[1], (40, 30, 20, 20))
    assert np.array_equal(fresh.track(frames[2]).box, used.track(frames[2]).box)


def test_a_target_is_shown_anew_and_another_comes_later():
    """Each is as in a tracker that was shown it there; the others are not disturbed."""
    frames, (left, right, late) = noise_frames(6), ((40, 30, 20, 13), (80, 50, 12, 25), (20, 60, 15, 15))
    together = Tracker(small_model())
    alone = [Tracker(small_model()) for _ in range(3)]
    together.initialize(frames[0], [left])
    alone[0].initialize(frames[0], left)
    for index, frame in enumerate(frames[1:], start=1):
        track = together.track(frame)
        for number, box in enumerate(track.box):
            assert box == pytest.approx(alone[number].track(frame).box, abs=1e-3)
        if index == 1:
            shown = frame.copy()
            together.show(shown, 1, right)
            shown[:] = 0
            alone[1].initialize(frame, right)
        if index == 3:
            together.show(frame, 0, late)
            together.show(frame, 2, left)
            alone[0].initialize(frame, late)
            alone[2].initialize(frame, left)
    assert len(track.box) == 3


def test_one_target_shown_anew_is_one_target():
    frames = noise_frames(3)
    tracker = Tracker(small_model())
    tracker.initialize(frames[0], (40, 30, 20, 13))
    tracker.show(frames[1], 0, (80, 50, 12, 25))
    assert tracker.track(frames[2]).box.shape == (4,)
    tracker.show(frames[1], 1, (80, 50, 12, 25))
    assert tracker.track(frames[2]).box.shape == (2, 4)
    for number, box, message in (
        (3, (1, 1, 9, 9), "at most 2, one more than there are, got 3"),
        (0, [(1, 1, 9, 9)], r"\(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tracker.show(frames[2], number, box)
    assert tracker.track(frames[2]).box.shape == (2, 4)


def test_boxes_of_the_caller_are_copied():
    frames, boxes = noise_frames(2), np.array([[40.0, 30.0, 20.0, 13.0]])
    tracker = Tracker(small_model())
    tracker.initialize(frames[0], boxes)
    boxes[:] = 500
    assert tracker.boxes.tolist() == [[40, 30, 20, 13]]


def test_a_bad_box_leaves_the_tracker_as_it_was():
    frames = noise_frames(2)
    tracker = Tracker(small_model())
    tracker.initialize(frames[0], (40, 30, 20, 13))
    for box in ((0, 0, 1e300, 1e300), "abcd", [(1, 2), (3,)], (119.9, 1, 0.1, 0.1)):
        with pytest.raises(BoxError):
            tracker.initialize(frames[1], box)
    assert tracker.boxes.tolist() == [[40, 30, 20, 13]]
    tracker.track(frames[1])


def test_template_is_embedded_once():
    tracker, frames = Tracker(small_model()), noise_frames(4)
    calls = []
    tracker.network.model.encoder.stem.register_forward_hook(lambda *args: calls.append(args[1][0].shape[-1]))
    tracker.initialize(frames[0], (40, 30, 20, 13))
    for frame in frames[1:]:
        tracker.track(frame)
    assert calls == [32, 64, 64, 64]


def test_the_template_box_is_told_to_who_reads_it():
    """Two boxes with one crop differ for a model that is told them, and for no other."""
    frames = noise_frames(2)
    for overrides, same in (((), True), (("template_box=true",), False)):
        tracker = Tracker(small_model(*overrides))
        scores = []
        for box in ((40, 30, 20, 13), (43.5, 26.5, 13, 20)):
            tracker.initialize(frames[0], box)
            scores.append(tracker.track(frames[1]).score)
        assert (scores[0] == scores[1]) == same


def test_views_of_frames_will_do():
    frames = noise_frames(2)
    bgr = frames[..., ::-1].copy()
    boxes = []
    for first, second in (frames, (bgr[0][..., ::-1], bgr[1][..., ::-1])):
        tracker = Tracker(small_model())
        tracker.initialize(first, (40, 30, 20, 13))
        boxes.append(tracker.track(second).box)
    assert np.array_equal(*boxes)


def test_bfloat16_finds_the_square():
    frames = square_video([(60, 50), (66, 54)])
    tracker = Tracker(brightness_model(), dtype=torch.bfloat16)
    tracker.initialize(frames[0], (60, 50, 16, 16))
    assert np.abs(centers(tracker.track(frames[1]).box) - [74, 62]).max() <= 8


def test_soft_division_shows_the_most_probable_category():
    frames = noise_frames(2)
    tracker = Tracker(small_model("division.soft=true"))
    tracker.initialize(frames[0], (40, 30, 20, 13))
    regions, crops = tracker.search_crops(frames[1])
    images = normalize_images(torch.from_numpy(crops[0]).permute(2, 0, 1)[None])
    policy = small_model("division.soft=true")(tracker.template, images).divisions[2].policy
    division = tracker.accept(frames[1], regions, tracker.locate(crops)).division
    assert np.array_equal(division[2].flatten(), policy[0].argmax(-1).numpy())
    assert not (division[1:] == 0).any()


@pytest.mark.slow
def test_compiled_tracker_gives_the_same_boxes():
    frames = noise_frames(4)
    eager, compiled = Tracker(small_model()), Tracker(small_model(), compile=True)
    for tracker in (eager, compiled):
        tracker.initialize(frames[0], [(40, 30, 20, 13), (80, 50, 12, 25)])
    for frame in frames[1:]:
        expected, got = eager.track(frame), compiled.track(frame)
        assert got.box == pytest.approx(expected.box, abs=1e-3)
        assert np.array_equal(got.division, expected.division)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_replayed_graph_gives_the_same_boxes():
    frames = noise_frames(4)
    eager, replayed = (Tracker(small_model(), device="cuda", cuda_graph=graph) for graph in (False, True))
    for tracker in (eager, replayed):
        tracker.initialize(frames[0], [(40, 30, 20, 13), (80, 50, 12, 25)])
    for frame in frames[1:]:
        expected, got = eager.track(frame), replayed.track(frame)
        assert got.box == pytest.approx(expected.box, abs=1e-3)
        assert np.array_equal(got.division, expected.division)


def test_model_is_left_alone():
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Tracker(model, dtype=torch.bfloat16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((200, 10, 5, 5), r"in the frame of 120 x 90 pixels, got .*\[200.0, 10.0, 5.0, 5.0\]"),
        ((-30, 10, 30, 5), "in the frame of 120 x 90"),
        ([(10, 10, 5, 5), (10, 90, 5, 5)], r"got .*\[10.0, 90.0, 5.0, 5.0\]"),
        ((10, 10, 0, 5), "positive width and height"),
        ((10, 10, 5), r"shape \(3,\)"),
        (np.zeros((0, 4)), r"expected shape \(4,\) or \(M, 4\)"),
        (np.ones((2, 2, 4)), r"expected shape \(4,\) or \(M, 4\)"),
    ],
)
def test_bad_boxes(box, message):
    with pytest.raises(ValueError, match=message):
        Tracker(small_model()).initialize(noise_frames(1)[0], box)


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (np.zeros((90, 120, 3)), TypeError, "an array of float64"),
        (torch.zeros(90, 120, 3, dtype=torch.uint8), TypeError, "got Tensor"),
        (None, TypeError, "got NoneType"),
        (np.zeros((90, 120), np.uint8), ValueError, r"\(90, 120\)"),
        (np.zeros((3, 90, 120), np.uint8), ValueError, r"\(3, 90, 120\)"),
        (np.zeros((9, 120, 3), np.uint8), ValueError, "10 pixels or more"),
    ],
)
def test_bad_frames(frame, error, message):
    tracker = Tracker(small_model())
    with pytest.raises(error, match=message):
        tracker.initialize(frame, (1, 1, 5, 5))
    tracker.initialize(noise_frames(1)[0], (40, 30, 20, 13))
    with pytest.raises(error, match=message):
        tracker.track(frame)


def test_other_mistakes():
    with pytest.raises(RuntimeError, match="call initialize"):
        Tracker(small_model()).track(noise_frames(1)[0])
    with pytest.raises(RuntimeError, match="call initialize"):
        Tracker(small_model()).show(noise_frames(1)[0], 0, (1, 1, 9, 9))
    with pytest.raises(ValueError, match="mapping: expected one of published, exact, got 'official'"):
        Tracker(small_model(), mapping="official")
    with pytest.raises(ValueError, match="cuda_graph: expected a CUDA device, got cpu"):
        Tracker(small_model(), cuda_graph=True)


@pytest.mark.parametrize("branch", ["center", "size"])
def test_broken_weights_are_noticed(branch):
    model = small_model()
    getattr(model.head, branch)[-1].bias.data.fill_(math.nan)
    tracker, frames = Tracker(model), noise_frames(2)
    tracker.initialize(frames[0], (40, 30, 20, 13))
    with pytest.raises(RuntimeError, match="not finite"):
        tracker.track(frames[1])
