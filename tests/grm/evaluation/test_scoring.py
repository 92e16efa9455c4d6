"""Figures of benchmarks: how sequences are put together, and when two trackers differ."""

import math

import numpy as np
import pytest

from grm.errors import DataError
from grm.evaluation.benchmarks import find_benchmark, open_benchmark
from grm.evaluation.metrics import got10k_overlaps, got10k_scores
from grm.evaluation.scoring import Truth, difference, read_truth, score_benchmark, score_sequence, student

from ..data.trees import write_got10k
from .scenes import Clip, trajectory

LASOT = find_benchmark("lasot")


def scored(clip, shift, protocol="all-frames"):
    return score_sequence(read_truth(LASOT, clip), [trajectory(clip, shift).boxes], protocol)


def test_sequences_count_the_same_whatever_their_length():
    clips = [Clip("a", 4), Clip("b", 12)]
    total = score_benchmark([scored(clips[0], 0), scored(clips[1], 1000)])
    assert total.sequences == 2
    assert total.figures["OP50"] == pytest.approx((1 + 1 / 12) / 2)
    assert total.figures["AUC"] == pytest.approx(20 / 21 * (1 + 1 / 12) / 2)
    assert total.success.shape == (21,) and total.precision.shape == total.normalized.shape == (51,)


def test_protocols():
    clip = Clip("a", 4, absent=(1, 3))
    assert scored(clip, 0).figures["OP50"] == 0.5
    assert scored(clip, 0, "valid-frames").figures["OP50"] == 1


def test_got10k_pools_the_frames(tmp_path):
    """The weighted mean over sequences is what the pooled frames give."""
    write_got10k(tmp_path, "val", count=6, sequences=2, covered=(2,))
    benchmark = find_benchmark("got10k-val")
    sequences = list(open_benchmark("got10k-val", tmp_path))
    # An absent frame that is not covered counts: GOT-10k's toolkit reads nothing but the cover.
    folder = tmp_path / "val" / sequences[1].name
    (folder / "absence.label").write_text("0\n0\n0\n0\n0\n1\n")
    (folder / "cover.label").write_text("8\n8\n0\n0\n0\n8\n")
    each, overlaps = [], []
    for shift, sequence in zip((1, 4), sequences, strict=True):
        boxes = sequence.boxes + np.array([shift, 0, 0, 0])
        truth = read_truth(benchmark, sequence)
        assert truth.size == (48, 40)
        each.append(score_sequence(truth, [boxes], "all-frames"))
        overlaps.append(got10k_overlaps(boxes, sequence.boxes, truth.counted, 48, 40))
    assert [score.weight for score in each] == [4, 2]
    total = score_benchmark(each)
    assert tuple(total.figures.values()) == pytest.approx(tuple(got10k_scores(overlaps)), abs=1e-12)
    assert total.precision is None


def test_repetitions_are_averaged():
    clip = Clip("a", 5)
    truth = read_truth(LASOT, clip)
    both = score_sequence(truth, [trajectory(clip, 0).boxes, trajectory(clip, 1000).boxes], "all-frames")
    assert both.figures["OP50"] == pytest.approx((1 + 1 / 5) / 2)


def test_lengths():
    clip = Clip("a", 5)
    boxes = trajectory(clip).boxes
    truth = read_truth(LASOT, clip)
    longer = score_sequence(truth, [np.concatenate([boxes, boxes])], "all-frames")
    assert longer.figures == scored(clip, 0).figures
    with pytest.raises(DataError, match="a: 4 boxes for 5 frames"):
        score_sequence(truth, [boxes[:4]], "all-frames")


def test_paired_standard_errors():
    """Against the formula for equal weights; what is common to both trackers cancels."""
    rng = np.random.default_rng(0)
    clips = [Clip(f"c{i}", 30) for i in range(20)]
    hard = rng.uniform(0, 12, 20)
    first = [scored(clip, shift) for clip, shift in zip(clips, hard, strict=True)]
    second = [scored(clip, shift + 0.5) for clip, shift in zip(clips, hard, strict=True)]
    gap = np.array([a.figures["AUC"] - b.figures["AUC"] for a, b in zip(first, second, strict=True)])
    got = difference(first, second, "AUC")
    assert got[:2] == pytest.approx((gap.mean(), gap.std(ddof=1) / math.sqrt(20)))
    assert got.margin == pytest.approx(student(19) * got.error)
    assert not got.is_noise
    assert difference(first, first, "AUC").is_noise
    assert difference(first[:1], second[:1], "AUC").is_noise  # nothing is known of the spread
    with pytest.raises(ValueError, match="same sequences"):
        difference(first, second[1:], "AUC")


def test_half_a_point_on_sixty_sequences_is_noise():
    """The spread over sequences of a few points that trackers usually have."""
    rng = np.random.default_rng(1)
    base = scored(Clip("a", 4), 0)

    def tracker(values):
        return [base._replace(name=f"{i}", figures={"AUC": value}) for i, value in enumerate(values)]

    gaps = rng.normal(0, 0.05, 60)
    gaps += 0.005 - gaps.mean()
    got = difference(tracker(0.6 + gaps), tracker(np.full(60, 0.6)), "AUC")
    assert got.mean == pytest.approx(0.005) and got.is_noise
    many = np.tile(gaps, 100)
    assert not difference(tracker(0.6 + many), tracker(np.full(6000, 0.6)), "AUC").is_noise


def test_nothing_to_score():
    with pytest.raises(DataError, match="no sequence counts"):
        score_benchmark([])
    clip = Clip("a", 3)
    hidden = Truth("a", clip.boxes, np.zeros(3, dtype=bool))
    with pytest.raises(DataError, match="a: valid-frames: the target is in sight in no frame"):
        score_sequence(hidden, [clip.boxes], "valid-frames")
    with pytest.raises(DataError, match="a: only the first frame has a box: there is nothing to compare with"):
        read_truth(LASOT, Clip("a", 3, absent=(1, 2)))
    assert len(read_truth(LASOT, Clip("a", 1)).boxes) == 1


@pytest.mark.parametrize("freedom", [1, 2, 2.5, 3, 7, 11, 13, 25, 40, 90, 1000, math.inf])
def test_students_quantiles(freedom):
    """95% of Student's t lie within, by its density."""
    x = np.linspace(0, student(freedom), 20001)
    if math.isinf(freedom):
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    else:
        logarithm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = math.exp(logarithm) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    # Between the values of its table: by the interpolation, which overestimates.
    assert 0.9498 < 2 * np.trapezoid(density, x) < (0.9505 if freedom != 2.5 else 0.975)
