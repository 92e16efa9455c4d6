"""Differences between rows, their errors against draws, and what is said of a published order."""

import math

import numpy as np
import pytest

from grm.ablation.summary import OrderResult, seeded_difference, speed_difference
from grm.ablation.tables import Order
from grm.evaluation.scoring import Difference, SequenceScore
from grm.evaluation.speed import FormSpeed


def scores(values):
    """Of each seed, scores of sequences with these figures (seeds, sequences)."""
    return [
        [SequenceScore(f"{i}", 1, {"AUC": float(x)}, None, None, None) for i, x in enumerate(of_seed)]
        for of_seed in values
    ]


def test_the_difference_is_paired_over_seeds_and_sequences():
    """What a seed or a sequence does to both rows cancels."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(3, 1)) + rng.normal(size=(1, 5))
    found = seeded_difference(scores(common + 0.25), scores(common), "AUC")
    assert found == pytest.approx((0.25, 0, 0), abs=1e-12)


@pytest.mark.parametrize(("over_seeds", "over_sequences"), [(0.0, 0.3), (0.2, 0.0), (0.2, 0.3)])
def test_the_error_is_that_of_draws_or_a_little_more(over_seeds, over_sequences):
    """A third of the noise is of neither, and so in both parts: the error may be so much larger."""
    rng = np.random.default_rng(1)
    seeds, sequences, draws = 4, 20, 300
    rest = 0.1
    means, squares = [], []
    for _ in range(draws):
        values = (
            over_seeds * rng.normal(size=(seeds, 1))
            + over_sequences * rng.normal(size=(1, sequences))
            + rest * rng.normal(size=(seeds, sequences))
        )
        mean, error, _ = seeded_difference(scores(values), scores(np.zeros_like(values)), "AUC")
        means.append(mean)
        squares.append(error**2)
    expected = over_seeds**2 / seeds + over_sequences**2 / sequences + rest**2 / (seeds * sequences)
    assert np.var(means) == pytest.approx(expected, rel=0.33)  # four standard errors of 300 draws
    counted_twice = rest**2 / (seeds * sequences)
    assert np.mean(squares) == pytest.approx(expected + counted_twice, rel=0.33)


def test_one_seed_has_the_error_over_sequences():
    found = seeded_difference(scores([[0.5, 0.7, 0.9]]), scores([[0.4, 0.4, 0.4]]), "AUC")
    assert found == pytest.approx((0.3, 0.2 / math.sqrt(3), 4.303 * 0.2 / math.sqrt(3)))


@pytest.mark.parametrize(("seeds", "over_seeds", "over_sequences"), [(2, 0.2, 0.0), (2, 0.2, 0.3), (3, 0.2, 0.3)])
def test_equal_rows_are_seldom_told_apart(seeds, over_seeds, over_sequences):
    """Of 300 draws 5% are 15, with a deviation of 3.8; with 1.96 whole errors it would be 45 and more."""
    rng, draws, told = np.random.default_rng(2), 300, 0
    for _ in range(draws):
        values = (
            over_seeds * rng.normal(size=(seeds, 1))
            + over_sequences * rng.normal(size=(1, 40))
            + 0.1 * rng.normal(size=(seeds, 40))
        )
        told += not seeded_difference(scores(values), scores(np.zeros_like(values)), "AUC").is_noise
    assert told <= 15 + 4 * 3.8
    apart = seeded_difference(scores(values + 10), scores(np.zeros_like(values)), "AUC")
    assert not apart.is_noise


def test_speeds_differ_in_frames_a_second():
    fast, slow = (FormSpeed("", 0.001, network, 0.001, 0, 0.0001, (0, 1, 0)) for network in (0.008, 0.018))
    found = speed_difference(fast, slow)
    assert found.mean == pytest.approx(100 - 50)
    assert found.error == pytest.approx(math.hypot(100**2 * 1e-4, 50**2 * 1e-4))


@pytest.mark.parametrize(("mean", "verdict"), [(0.5, "appears"), (0.1, "not told apart"), (-0.5, "reversed")])
def test_verdicts(mean, verdict):
    assert OrderResult(Order("a", "b", "accuracy", ""), Difference(mean, 0.1, 0.2)).verdict == verdict
