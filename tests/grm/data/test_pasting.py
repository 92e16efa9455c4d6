"""Cut-outs in a search region: where they are, what they leave to be seen, and how often they come."""

import numpy as np
import pytest
import torch

from grm.config import load_config
from grm.crop import crop_image, crop_region
from grm.data import training_pairs
from grm.data.pasting import with_others
from grm.data.synthetic.cutout import cutouts

from . import trees

SIDE = 128
WHOLE = (slice(0, SIDE), slice(0, SIDE))


@pytest.fixture
def folder(tmp_path):
    return trees.write_cutouts(tmp_path / "cutouts")


def test_the_target_stays_in_sight(folder):
    """At most half of what is seen of its box is covered; all over the crop things appear; the input is kept.

    Once the target is wholly inside, and once half of it is outside of the crop.
    """
    others, rng = cutouts(folder), np.random.default_rng(0)
    grey = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    for label in (np.array([0.4, 0.6, 0.3, 0.2]), np.array([0.0, 0.6, 0.3, 0.2])):
        x, y, w, h = (label * SIDE).tolist()
        rows, columns = (slice(max(0, round(c - e / 2)), round(c + e / 2)) for c, e in ((y, h), (x, w)))
        covered, everywhere = [], np.zeros((SIDE, SIDE))
        for _ in range(400):
            changed = (with_others(grey, label, WHOLE, others, rng) != 128).any(-1)
            covered.append(changed[rows, columns].mean())
            everywhere += changed
        # A box touches a pixel more each way than it covers.
        assert 0.3 < max(covered) <= 0.5 + 2 / min(w / 2, h) and 0.03 < np.mean(np.array(covered) > 0.05) < 0.9
        assert everywhere.max() < 400
        everywhere[rows, columns] = 1
        assert everywhere.min() > 0
    assert (grey == 128).all()


def test_padding_stays(folder):
    """What shows beyond the frame's edge is black in the crop, and stays so."""
    others, rng, painted = cutouts(folder), np.random.default_rng(2), 0
    for _ in range(200):
        frame = np.full((60, 90, 3), 200, dtype=np.uint8)
        box = np.array([*rng.uniform((-8, -8), (82, 52)), *rng.uniform(9, 40, 2)])
        region = crop_region(box, 4.0)
        crop, shown = crop_image(frame, region, SIDE), region.shown(90, 60, SIDE)
        whole = np.zeros((SIDE, SIDE), dtype=bool)
        whole[shown] = True
        assert np.array_equal(whole, (crop == 200).all(-1))
        pasted = with_others(crop, region.to_crop(box, SIDE), shown, others, rng)
        assert np.array_equal(pasted[~whole], crop[~whole])
        painted += (pasted != crop).any()
    assert painted > 100


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
    grey = pairs("data.paste=1", "data.grayscale=1")
    assert all((grey[i].search[0] == grey[i].search[1]).all() for i in range(5))


def test_pasting_needs_cutouts():
    with pytest.raises(ValueError, match=r"data\.paste: needs a folder of synthetic\.cutouts, got null"):
        load_config("grm_nano", ["data.paste=0.5"])
