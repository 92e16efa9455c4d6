"""Metrics against GOT-10k's own toolkit, against loops over single frames, and on cases worked out by hand."""

import math

import numpy as np
import pytest

from grm.evaluation.metrics import (
    NORMALIZED_THRESHOLDS,
    PRECISION_THRESHOLDS,
    SUCCESS_THRESHOLDS,
    curves,
    frame_errors,
    got10k_overlaps,
    got10k_scores,
    mean_curves,
    scores,
)

NOTHING = [math.nan] * 4


def random_boxes(rng, count, scatter):
    """True boxes in and over the edge of 320 x 240 pixels, and tracked ones about so many pixels away."""
    truth = np.column_stack(
        [rng.uniform(-30, 300, count), rng.uniform(-30, 220, count), rng.uniform(4, 90, (count, 2))]
    )
    tracked = truth + scatter * rng.standard_normal((count, 4))
    tracked[:, 2:] = np.abs(tracked[:, 2:]) + 0.5
    tracked[0] = truth[0]
    return tracked, truth


def overlap_of(a, b):
    """Of two boxes, by their corners."""
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return min(1.0, width * height / (a[2] * a[3] + b[2] * b[3] - width * height))


def loops(tracked, truth, visible, valid_only):
    """The three curves, frame by frame in Python: which of the frames are right at each threshold."""
    right = {"success": [0] * 21, "precision": [0] * 51, "normalized": [0] * 51}
    frames = 0
    for i, (found, target) in enumerate(zip(tracked.tolist(), truth.tolist(), strict=True)):
        there = visible[i] and not any(map(math.isnan, target)) and target[2] > 0 and target[3] > 0
        frames += there or not valid_only
        if not there:
            continue
        found = target if i == 0 else found
        dx = (found[0] + found[2] / 2) - (target[0] + target[2] / 2)
        dy = (found[1] + found[3] / 2) - (target[1] + target[3] / 2)
        for k in range(21):
            right["success"][k] += overlap_of(found, target) > k / 20
        for k in range(51):
            right["precision"][k] += math.hypot(dx, dy) <= k
            right["normalized"][k] += math.hypot(dx / target[2], dy / target[3]) <= k / 100
    return {name: [count / frames for count in counts] for name, counts in right.items()}


@pytest.mark.parametrize("protocol", ["all-frames", "valid-frames"])
@pytest.mark.parametrize("scatter", [1, 8, 30])
def test_against_loops(protocol, scatter):
    rng = np.random.default_rng(scatter)
    tracked, truth = random_boxes(rng, 400, scatter)
    truth[50:70], truth[90, 2] = np.nan, 0
    visible = rng.random(400) < 0.8
    visible[0] = True
    got = curves(frame_errors(tracked, truth, visible), protocol)
    expected = loops(tracked, truth, visible, protocol == "valid-frames")
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(got, name), values, rtol=0, atol=1e-9)
    assert scores(got) == pytest.approx(
        (
            sum(expected["success"]) / 21,
            expected["success"][10],
            expected["success"][15],
            expected["precision"][20],
            expected["normalized"][20],
        ),
        abs=1e-9,
    )


def test_against_the_toolkit_of_got10k():
    experiments = pytest.importorskip("got10k.experiments")
    toolkit = experiments.ExperimentOTB.__new__(experiments.ExperimentOTB)
    toolkit.nbins_iou, toolkit.nbins_ce = 21, 51
    for scatter in (1, 8, 30):
        tracked, truth = random_boxes(np.random.default_rng(scatter), 1000, scatter)
        success, precision = toolkit._calc_curves(*toolkit._calc_metrics(tracked.copy(), truth.copy()))
        got = curves(frame_errors(tracked, truth), "all-frames")
        np.testing.assert_allclose(got.success, success, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got.precision, precision, rtol=0, atol=1e-9)


def test_got10k_against_its_toolkit():
    experiments = pytest.importorskip("got10k.experiments")
    metrics = pytest.importorskip("got10k.utils.metrics")
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for count, scatter in ((300, 2), (40, 10), (500, 25)):
        tracked, truth = random_boxes(rng, count, scatter)
        cover = rng.integers(0, 9, count)
        ours.append(got10k_overlaps(tracked, truth, cover > 0, 320, 240))
        bounded = metrics.rect_iou(tracked[1:].copy(), truth[1:].copy(), bound=(320, 240))
        theirs.append(bounded[cover[1:] > 0])
        np.testing.assert_allclose(ours[-1], theirs[-1], rtol=0, atol=1e-9)
    toolkit = experiments.ExperimentGOT10k.__new__(experiments.ExperimentGOT10k)
    ao, sr50, _, curve = toolkit._evaluate(np.concatenate(theirs), np.ones(1))
    assert got10k_scores(ours) == pytest.approx((ao, sr50, curve[75]), abs=1e-9)


def test_got10k_pools_frames_drops_the_first_and_clips():
    truth = np.array([[0, 0, 10, 10]] * 4, dtype=float)
    tracked = truth.copy()
    tracked[0, 0] = 500  # not counted
    tracked[1, 2] = 5  # half of it
    seen = np.array([True, True, True, False])
    assert got10k_overlaps(tracked, truth, seen, 100, 100).tolist() == [0.5, 1]
    long = got10k_overlaps(np.tile(truth, (3, 1)), np.tile(truth, (3, 1)), np.ones(12, bool), 100, 100)
    assert got10k_scores([np.array([0.5, 0.75]), long]) == (pytest.approx(12.25 / 13), 12 / 13, 11 / 13)
    # Right of the image the box ends; left of it, its toolkit moves it in.
    over = np.array([[0, 0, 1, 1], [95, 0, 50, 10], [-5, 0, 10, 10]], dtype=float)
    inside = np.array([[0, 0, 1, 1], [95, 0, 5, 10], [0, 0, 10, 10]], dtype=float)
    assert got10k_overlaps(over, inside, np.ones(3, bool), 100, 100).tolist() == [1, 1]
    assert got10k_overlaps(np.array([NOTHING] * 2), inside[:2], np.ones(2, bool), 100, 100).tolist() == [0]
    with pytest.raises(ValueError, match="no frame is counted"):
        got10k_scores([got10k_overlaps(truth[:1], truth[:1], np.ones(1, bool), 9, 9)])


def test_absent_frames_by_protocol():
    truth = np.array([[0, 0, 10, 10], NOTHING, [0, 0, 10, 0], [0, 0, 10, 10]], dtype=float)
    errors = frame_errors(np.array([[0, 0, 10, 10]] * 4, dtype=float), truth, np.array([True, True, True, False]))
    assert errors.valid.tolist() == [True, False, False, False]
    assert errors.overlap.tolist() == [1, 0, 0, 0] and errors.distance.tolist() == [0] + [math.inf] * 3
    # An overlap of 1 is not above the threshold 1: a perfect tracker's area is 20 of 21.
    assert scores(curves(errors, "all-frames")) == pytest.approx((0.25 * 20 / 21, 0.25, 0.25, 0.25, 0.25))
    assert scores(curves(errors, "valid-frames")) == pytest.approx((20 / 21, 1, 1, 1, 1))


def test_first_frame_is_the_given_box_and_one_frame_is_enough():
    errors = frame_errors(np.array([[50, 50, 1, 1.0]]), np.array([[0, 0, 10, 10.0]]))
    for protocol in ("all-frames", "valid-frames"):
        assert scores(curves(errors, protocol)) == pytest.approx((20 / 21, 1, 1, 1, 1))


def test_tracked_boxes_that_are_none():
    truth = np.array([[0, 0, 10, 10]] * 6, dtype=float)
    tracked = truth.copy()
    tracked[1], tracked[2, 0], tracked[3] = np.nan, np.inf, [10, 10, -10, -10]
    tracked[4] = [5, 5, 0, 0]
    errors = frame_errors(tracked, truth)
    assert errors.overlap.tolist() == [1, 0, 0, 0, 0, 1]
    assert errors.distance.tolist() == [0, math.inf, math.inf, math.inf, 0, 0]


def test_thresholds_are_exceeded_in_overlap_and_reached_in_distance():
    truth = np.array([[0, 0, 10, 10]] * 3, dtype=float)
    tracked = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [12, 16, 10, 10]], dtype=float)
    got = curves(frame_errors(tracked, truth), "all-frames")
    assert scores(got).op50 == pytest.approx(1 / 3)  # 0.5 is not above 0.5
    assert got.precision[19] == pytest.approx(2 / 3) and got.precision[20] == 1  # 20 pixels are within 20
    wide = np.array([[0, 0, 100, 10]] * 2, dtype=float)
    beside = np.array([[0, 0, 100, 10], [20, 0, 100, 10]], dtype=float)
    assert scores(curves(frame_errors(beside, wide), "all-frames")).normalized_precision == 1
    assert [len(t) for t in (SUCCESS_THRESHOLDS, PRECISION_THRESHOLDS, NORMALIZED_THRESHOLDS)] == [21, 51, 51]


def test_sequences_count_the_same():
    short = curves(frame_errors(np.array([[0, 0, 9, 9.0]]), np.array([[0, 0, 9, 9.0]])), "all-frames")
    lost = np.array([[0, 0, 9, 9.0]] * 4)
    lost[1:, 0] = 1000
    long = curves(frame_errors(lost, np.array([[0, 0, 9, 9.0]] * 4)), "all-frames")
    assert scores(mean_curves([short, long])).op50 == pytest.approx((1 + 1 / 4) / 2)
    with pytest.raises(ValueError, match="one sequence or more"):
        mean_curves([])


def test_wrong_shapes():
    box = np.array([[0, 0, 9, 9.0]])
    for call, message in (
        (lambda: frame_errors(np.repeat(box, 2, 0), box), r"tracked: expected shape \(1, 4\).*\(2, 4\)"),
        (lambda: frame_errors(box[0], box[0]), r"truth: expected shape \(N, 4\)"),
        (lambda: frame_errors(box, box, np.ones(2, bool)), r"visible: expected shape \(1,\)"),
        (lambda: got10k_overlaps(box, box, np.ones(2, bool), 9, 9), r"counted: expected shape \(1,\)"),
        (lambda: curves(frame_errors(box, np.array([NOTHING])), "valid-frames"), "in sight in no frame"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
