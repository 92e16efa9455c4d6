"""States of targets: by their bounds, through the tracker, for one target and for several."""

import numpy as np
import pytest

from grm.config import CertaintyConfig
from grm.errors import ConfigError
from grm.model import reconfigured
from grm.tracking import Tracker
from grm.tracking.certainty import states_of

from .scenes import brightness_model, square_video

BOUNDS = CertaintyConfig(lost_below=0.25, held_from=0.5)


def test_bounds_belong_to_what_is_above_them():
    scores = np.array([0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0], dtype=np.float32)
    assert states_of(scores, BOUNDS).tolist() == ["lost", "lost", "uncertain", "uncertain", "held", "held"]
    assert states_of(scores, CertaintyConfig()).tolist() == [""] * 6
    one = CertaintyConfig(lost_below=0.25, held_from=0.25)
    assert states_of(scores, one).tolist() == ["lost"] * 2 + ["held"] * 4


def test_a_tracker_says_what_its_weights_know():
    """The stand-in's score is the brightness: high on the square, low where it is gone."""
    model = brightness_model()
    assert model.config.certainty == CertaintyConfig()
    model.config = model.config.model_copy(update={"certainty": CertaintyConfig(lost_below=0.3, held_from=0.8)})
    frames = square_video([(60, 50), (62, 50), (400, 50)])
    tracker = Tracker(model)
    tracker.initialize(frames[0], (60, 50, 16, 16))
    assert [str(tracker.track(frame).state) for frame in frames[1:]] == ["held", "lost"]
    tracker.initialize(frames[0], [(60, 50, 16, 16), (10, 10, 16, 16)])
    assert tracker.track(frames[1]).state.tolist() == ["held", "lost"]
    silent = Tracker(brightness_model())
    silent.initialize(frames[0], (60, 50, 16, 16))
    assert silent.track(frames[1]).state == ""


@pytest.mark.parametrize("keys", ["lost_below: 0.5", "held_from: 0.5", "lost_below: 0.6, held_from: 0.5"])
def test_bounds_that_are_none(keys):
    with pytest.raises(ConfigError, match=r"model\.certainty\.lost_below, model\.certainty\.held_from: expected both"):
        reconfigured(brightness_model(), [f"model.certainty={{{keys}}}"])
