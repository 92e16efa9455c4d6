"""Targets with limbs: joints, swings and figures by geometry."""

import numpy as np
import pytest

from grm.config import SyntheticConfig
from grm.data.synthetic import synthetic_sequence
from grm.data.synthetic.articulated import Articulated
from grm.data.synthetic.builds import random_figure
from grm.data.synthetic.sprite import Motion

pytest.importorskip("matplotlib")


def test_joints_hold(articulated):
    """Where a part begins is one place of what it hangs on, in every frame; the body is where the whole is."""
    for sequence in articulated:
        target = sequence.target
        straight = Articulated(target._figure, target.motion._replace(bend=np.zeros(2)), target._paints)
        frames = np.arange(len(sequence))
        for part, sprite in zip(target._figure.parts, straight._sprites, strict=True):
            begins = np.stack(sprite._to_frame(np.array([[0.0], [-1.0]]), frames), axis=-1)[:, 0]
            if part.parent is None:
                assert np.hypot(*(sprite.motion.center - target.motion.center).T).max() < target.reach().max()
                continue
            places = straight._sprites[part.parent]._to_object(begins[:, :1], begins[:, 1:], frames)
            assert np.stack(places, axis=-1)[:, 0] == pytest.approx(np.tile(part.joint, (len(frames), 1)), abs=1e-9)


def test_limbs_swing(articulated):
    """About the angle at rest, once to and fro in a period."""
    for sequence in articulated:
        figure, whole = sequence.target._figure, sequence.target.motion
        angles = [sprite.motion.angle for sprite in sequence.target._sprites]
        for part, angle in zip(figure.parts, angles, strict=True):
            turn = angle - (whole.angle if part.parent is None else angles[part.parent]) - part.angle
            assert np.abs(turn).max() <= part.swing + 1e-9
            if part.swing > 0.1:
                ups = np.flatnonzero((turn[:-1] < 0) & (turn[1:] >= 0))
                assert (np.abs(np.diff(ups) - figure.period) <= 1).all()


def test_figures_at_rest():
    """The box has its middle at the origin, an area of 4 and the aspect that is said; nothing is apart."""
    rng = np.random.default_rng(0)
    still = Motion.still(np.zeros(2), np.ones(2))
    aspects = []
    for _ in range(200):
        figure = random_figure(rng)
        aspects.append(figure.aspect)
        rest = figure._replace(parts=tuple(part._replace(swing=0.0) for part in figure.parts))
        x, y, width, height = Articulated(rest, still, [None] * len(figure.parts)).boxes(np.array([0]))[0]
        assert [x + width / 2, y + height / 2, width * height] == pytest.approx([0, 0, 4], abs=1e-9)
        assert width / height == pytest.approx(figure.aspect)
        assert figure.parts[0].parent is None
        assert all(part.parent < number for number, part in enumerate(figure.parts) if number)
    assert min(aspects) < 0.5 and max(aspects) > 1.5 and 0.8 < np.median(aspects) < 1.25


def test_articulated_targets_are_drawn_on_demand(articulated):
    """No probability, no change; half of it, some of the targets; look-alikes share the target's textures."""
    kinds = [type(synthetic_sequence(SyntheticConfig(articulated=0.5), seed).target) for seed in range(40)]
    assert 10 < kinds.count(Articulated) < 30
    for sequence in articulated:
        own = {paint.args[1].main for paint in sequence.target._paints}
        kin = [
            sprite
            for sprite in (*sequence._behind, *sequence._front)
            if isinstance(sprite, Articulated) and {paint.args[1].main for paint in sprite._paints} == own
        ]
        assert kin
