"""Cut-outs in a search region: where they are, what they leave to be seen, and how often they come."""

import numpy as np
import pytest
import torch

from grm.config import load_config
from grm.data import training_pairs
from grm.data.pasting import with_others
from grm.data.synthetic.cutout import cutouts

from . import trees

SIDE = 128
WHOLE = np.array([0.5, 0.5, 2.0, 2.0])


@pytest.fixture
def folder(tmp_path):
    return trees.write_cutouts(tmp_path / "cutouts")


def test_the_target_stays_in_sight(folder):
    """Of the target's box at most half is covered by any one; all over the crop things appear; the input is kept."""
    others, rng = cutouts(folder), np.random.default_rng(0)
    label = np.array([0.4, 0.6, 0.3, 0.2])
    x, y, w, h = (label * SIDE).tolist()
    rows, columns = slice(round(y - h / 2), round(y + h / 2)), slice(round(x - w / 2), round(x + w / 2))
    grey, covered, everywhere = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8), [], np.zeros((SIDE, SIDE))
    for _ in range(300):
        seen = (with_others(grey, label, WHOLE, others, rng) != 128).any(-1)
        covered.append(seen[rows, columns].mean())
        everywhere += seen
    assert (grey == 128).all()
    # Three of them, each over half at most, may together cover all; rarely.
    assert np.quantile(covered, 0.99) <= 0.75 and 0.1 < np.mean(np.array(covered) > 0.05) < 0.9
    outside = everywhere.copy()
    outside[rows, columns] = 300
    assert outside.min() > 0 and everywhere.max() < 300


def test_one_hides_at_most_half(folder, monkeypatch):
    monkeypatch.setattr("grm.data.pasting._MOST", 1)
    others, rng = cutouts(folder), np.random.default_rng(1)
    grey, label = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8), np.array([0.5, 0.5, 0.25, 0.25])
    box = slice(SIDE * 3 // 8, SIDE * 5 // 8)
    covered = [(with_others(grey, label, WHOLE, others, rng) != 128).any(-1)[box, box].mean() for _ in range(500)]
    # A pixel all around is drawn in part.
    assert 0.35 < max(covered) <= 0.5 + 4 / (SIDE / 4)


def test_padding_stays(folder):
    """The frame ends at three quarters of the crop's width, and begins an eighth below its top."""
    others, rng = cutouts(folder), np.random.default_rng(2)
    grey, everywhere = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8), np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(300):
        frame = np.array([0.25, 0.625, 1.0, 1.0])
        everywhere |= (with_others(grey, np.array([0.4, 0.6, 0.3, 0.2]), frame, others, rng) != 128).any(-1)
    inside = np.zeros_like(everywhere)
    inside[SIDE // 8 :, : SIDE * 3 // 4] = True
    assert not everywhere[~inside].any() and everywhere[inside].mean() > 0.99


def test_only_search_regions_as_often_as_configured(folder, tmp_path):
    trees.write_folder(tmp_path / "videos" / "one", 30)
    common = [
        f"data.root={tmp_path}",
        "data.train={it: {kind: folder, root: videos}}",
        "data.held_out={}",
        "data.synthetic.cutouts=cutouts",
        "data.crop_flip=0",
    ]

    def pairs(*overrides):
        return training_pairs(load_config("grm_nano", [*common, "data.color=0", "data.degrade=0", *overrides]), 0)

    plain, pasted, half = pairs(), pairs("data.paste=1"), pairs("data.paste=0.5")
    changed = []
    for i in range(40):
        before, after = plain[i], pasted[i]
        assert torch.equal(before.template, after.template) and torch.equal(before.template_box, after.template_box)
        changed.append(not torch.equal(before.search, half[i].search))
        assert before.search.shape == after.search.shape
    assert 8 < sum(changed) < 32


def test_pasting_needs_cutouts():
    with pytest.raises(ValueError, match=r"data\.paste: needs a folder of synthetic\.cutouts, got null"):
        load_config("grm_nano", ["data.paste=0.5"])
