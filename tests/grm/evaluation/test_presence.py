"""Whether the score tells held frames from others, against pairs counted one by one."""

import numpy as np
import pytest

from grm.evaluation.presence import presence, presence_text


def test_area_against_all_pairs():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(300), 1)  # with ties
    held = rng.random(300) < 0.3 + 0.5 * scores
    found = presence([scores[:100], scores[100:]], [held[:100], held[100:]])
    pairs = [(a > b) + (a == b) / 2 for a in scores[held] for b in scores[~held]]
    assert found.auc == pytest.approx(np.mean(pairs), abs=1e-12)
    assert (found.held, found.other) == (held.sum(), (~held).sum())


def test_threshold_is_the_best_of_all():
    rng = np.random.default_rng(1)
    held = rng.random(200) < 0.5
    scores = np.clip(rng.normal(0.4 + 0.2 * held, 0.15), 0, 1)
    found = presence([scores], [held])
    gains = [(scores[held] >= t).mean() - (scores[~held] >= t).mean() for t in scores]
    assert found.held_above - found.other_above == pytest.approx(max(gains))
    assert found.held_above == pytest.approx((scores[held] >= found.threshold).mean())


def test_bounds_keep_nineteen_of_twenty():
    rng = np.random.default_rng(2)
    held = rng.random(5000) < 0.6
    scores = rng.normal(0.4 + 0.2 * held, 0.15)
    found = presence([scores], [held])
    assert found.low < found.high
    assert (scores[held] >= found.low).mean() >= 0.95 > (scores[held] >= found.low + 0.02).mean()
    assert (scores[~held] < found.high).mean() >= 0.95 > (scores[~held] < found.high - 0.02).mean()


def test_kinds_that_lie_apart():
    found = presence([np.array([np.nan, 0.9, 0.8, 0.1, 0.2])], [np.array([True, True, True, False, False])])
    assert found == (2, 2, 1.0, 0.8, 1.0, 0.0, 0.8, 0.8)
    assert presence_text("tiny", found) == (
        "running mean of tiny's score: ROC AUC 1.000 (2 frames held, 2 not); 0.80 or more in 100% of the held and 0% "
        "of the other frames; lost below 0.80, held from 0.80"
    )


def test_nothing_to_tell_apart():
    assert presence([np.array([np.nan, 0.5])], [np.array([False, True])]) is None
    assert presence([], []) is None


def test_scores_that_say_nothing():
    assert presence([np.full(4, 0.5)], [np.array([True, False, True, False])]).auc == 0.5
