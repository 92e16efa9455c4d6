"""States of targets: by their bounds, through the tracker, for one target and for several."""

import numpy as np
import pytest

from grm.config import CertaintyConfig
from grm.errors import ConfigError
from grm.model import reconfigured
from grm.tracking import Tracker
from grm.tracking.certainty import next_mean, running_means, states_of

from .scenes import brightness_model, square_video

BOUNDS = CertaintyConfig(lost_below=0.25, held_from=0.5)


def test_bounds_belong_to_what_is_above_them():
    scores = np.array([0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0], dtype=np.float32)
    assert states_of(scores, BOUNDS).tolist() == ["lost", "lost", "uncertain", "uncertain", "held", "held"]
    assert states_of(scores, CertaintyConfig()).tolist() == [""] * 6
    one = CertaintyConfig(lost_below=0.25, held_from=0.25)
    assert states_of(scores, one).tolist() == ["lost"] * 2 + ["held"] * 4


def test_running_means():
    """Seven tenths of the mean before and three of the score; from NaN on, anew; one target at a time or several."""
    scores = np.array([np.nan, 0.8, 0.4, 0.5, np.nan, 0.2, 0.6])
    expected = [np.nan, 0.8, 0.68, 0.626, np.nan, 0.2, 0.32]
    assert running_means(scores) == pytest.approx(expected, abs=1e-15, nan_ok=True)
    assert running_means(np.empty(0)).shape == (0,)
    mean, means = np.full(2, np.nan), []
    for score in scores:
        mean = next_mean(mean, [score, 1.0])
        means.append(mean)
    assert np.array_equal(np.array(means)[:, 0], running_means(scores), equal_nan=True)
    assert (np.array(means)[:, 1] == 1).all()


def test_a_moment_does_not_decide():
    """Dark for a frame, a held target is uncertain; dark for long it is lost, and shown again it begins anew."""
    model = brightness_model()
    model.config = model.config.model_copy(update={"certainty": CertaintyConfig(lost_below=0.3, held_from=0.7)})
    on, off = square_video([(60, 50), (400, 50)])
    tracker = Tracker(model)
    tracker.initialize(on, (60, 50, 16, 16))
    # Scores of 0.905 and 0.107: means of 0.905, 0.665, 0.737, then 0.548, 0.416, 0.323, 0.259.
    states = [str(tracker.track(frame).state) for frame in (on, off, on, off, off, off, off)]
    assert states == ["held", "uncertain", "held", *["uncertain"] * 3, "lost"]
    tracker.show(on, 0, (60, 50, 16, 16))
    assert [str(tracker.track(frame).state) for frame in (on, off, off)] == ["held", "uncertain", "uncertain"]
    tracker.show(on, 1, (60, 50, 16, 16))
    assert tracker.track(on).state.tolist() == ["uncertain", "held"]


def test_a_tracker_says_what_its_weights_know():
    """The stand-in's score is the brightness: high on the square, low where it is gone."""
    model = brightness_model()
    assert model.config.certainty == CertaintyConfig()
    model.config = model.config.model_copy(update={"certainty": CertaintyConfig(lost_below=0.3, held_from=0.8)})
    frames = square_video([(60, 50), (62, 50), *[(400, 50)] * 5])
    tracker = Tracker(model)
    tracker.initialize(frames[0], (60, 50, 16, 16))
    states = [str(tracker.track(frame).state) for frame in frames[1:]]
    assert (states[0], states[-1]) == ("held", "lost")
    tracker.initialize(frames[0], [(60, 50, 16, 16), (10, 10, 16, 16)])
    assert tracker.track(frames[1]).state.tolist() == ["held", "lost"]
    silent = Tracker(brightness_model())
    silent.initialize(frames[0], (60, 50, 16, 16))
    assert silent.track(frames[1]).state == ""


@pytest.mark.parametrize("keys", ["lost_below: 0.5", "held_from: 0.5", "lost_below: 0.6, held_from: 0.5"])
def test_bounds_that_are_none(keys):
    with pytest.raises(ConfigError, match=r"model\.certainty\.lost_below, model\.certainty\.held_from: expected both"):
        reconfigured(brightness_model(), [f"model.certainty={{{keys}}}"])
