"""Pairs: which frames are drawn, that a sample depends on (seed, epoch, index) only, labels, and what failures do."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from grm.config import parse_config
from grm.data.pairs import PairDataset, choose_frames, training_pairs
from grm.data.sequence import Sequences
from grm.errors import DataError

from . import trees

SMALL = {"template": {"size": 64, "factor": 2.0}, "search": {"size": 128, "factor": 4.0}}
PLAIN = {"grayscale": 0, "flip": 0, "crop_flip": 0, "brightness": 0, "jitter": {"scale": 0, "center": 0}}


def configured(train=None, **data):
    return parse_config({"model": SMALL, "data": {"samples_per_epoch": 100, **data, "train": train or {}}})


def mixed(tmp_path, **data):
    """Pairs of three small data sets."""
    trees.write_lasot(tmp_path / "lasot", ["cat-1", "dog-2"])
    trees.write_got10k(tmp_path / "got", "train")
    trees.write_coco(tmp_path / "coco", [(30, [1.5, 2, 10, 12], False), (70, [3, 4, 5, 6], False)])
    train = {kind: {"kind": kind, "root": root} for kind, root in (("lasot", "lasot"), ("got10k", "got"))}
    train["coco"] = {"kind": "coco", "root": "coco", "weight": 2.0}
    return training_pairs(configured(train, root=str(tmp_path), **data), seed=3)


class Drawn:
    """A sequence in memory: noise, with a box that moves."""

    def __init__(self, name, count=30, visible=None, boxes=None):
        self.name = name
        self.boxes = np.array(trees.boxes_of(count) if boxes is None else boxes, dtype=np.float64)
        self.visible = np.ones(count, dtype=bool) if visible is None else np.array(visible)

    def __len__(self):
        return len(self.boxes)

    def frame(self, index):
        return np.random.default_rng(index).integers(0, 256, (trees.HEIGHT, trees.WIDTH, 3), dtype=np.uint8)


def pairs_of(sequences, seed=0, **data):
    config = configured(**data)
    return PairDataset({"it": Sequences(sequences, lambda sequence: sequence)}, {"it": 1.0}, config, seed)


def frames_of(sample):
    return [int(number) for number in sample.provenance.rpartition("frames ")[2].split(", ")]


def same(a, b):
    return a.provenance == b.provenance and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def test_sample(tmp_path):
    sample = mixed(tmp_path)[0]
    assert sample.template.shape == (3, 64, 64) and sample.search.shape == (3, 128, 128)
    assert sample.template.dtype == sample.search.dtype == torch.uint8
    assert sample.box.shape == sample.template_box.shape == (4,)
    assert sample.box.dtype == sample.template_box.dtype == torch.float32


def test_a_sample_is_a_function_of_seed_epoch_and_index(tmp_path):
    """Whatever was drawn before; and it does depend on each of the three."""
    pairs = mixed(tmp_path)
    first = [pairs[i] for i in range(8)]
    again = training_pairs(configured_like(pairs), seed=3)
    assert all(same(again[i], first[i]) for i in (5, 2, 7))
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(pairs[2], first[2])
    other_seed = training_pairs(configured_like(pairs), seed=4)
    pairs.set_epoch(1)
    assert not any(same(pairs[i], first[i]) or same(other_seed[i], first[i]) for i in range(8))
    pairs.set_epoch(0)
    assert same(pairs[7], first[7]) and not same(first[0], first[1])


def configured_like(pairs):
    return parse_config({"model": pairs.model.model_dump(), "data": pairs.data.model_dump()})


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_draw_the_same(tmp_path, start):
    """And workers that outlive an epoch see the next one."""
    pairs = mixed(tmp_path, samples_per_epoch=6)
    loader = DataLoader(pairs, 3, num_workers=1, persistent_workers=True, multiprocessing_context=start)
    for epoch in (0, 1):
        pairs.set_epoch(epoch)
        batches = list(loader)
        provenance = [name for batch in batches for name in batch.provenance]
        assert provenance == [pairs[i].provenance for i in range(6)]
        assert torch.equal(torch.cat([batch.search for batch in batches])[4], pairs[4].search)


def test_data_sets_are_drawn_by_weight(tmp_path):
    """1 : 1 : 2 over 400 draws; five deviations of a binomial count."""
    pairs = mixed(tmp_path, samples_per_epoch=400)
    names = [pairs[i].provenance.partition("/")[0] for i in range(400)]
    for name, share in (("lasot", 0.25), ("got10k", 0.25), ("coco", 0.5)):
        assert abs(names.count(name) - 400 * share) < 5 * np.sqrt(400 * share * (1 - share))


def test_sequences_that_cannot_be_used_cost_a_data_set_nothing_of_its_share():
    """Three of four of one data set are too short; drawn 1 : 1 all the same. Five deviations of a binomial count."""
    some = [Drawn(f"{i}", 30 if i == 0 else 10) for i in range(4)]
    datasets = {"a": Sequences([Drawn("whole", 30)], lambda s: s), "b": Sequences(some, lambda s: s)}
    pairs = PairDataset(datasets, {"a": 1.0, "b": 1.0}, configured(samples_per_epoch=400), seed=0)
    count = sum(pairs[i].provenance.startswith("b/") for i in range(400))
    assert abs(count - 200) < 5 * np.sqrt(400 / 4)


@given(st.lists(st.booleans(), min_size=20, max_size=80), st.integers(1, 30), st.integers(0, 10))
def test_frames_are_visible_and_in_order(visible, max_gap, seed):
    visible = np.array(visible)
    if visible.sum() < 2:
        return
    template, search = choose_frames(visible, max_gap, np.random.default_rng(seed))
    assert visible[template] and visible[search] and template < search


def test_gap_and_evenness():
    """No search frame is further than the gap; templates are even over those that have a successor at all."""
    rng = np.random.default_rng(0)
    drawn = np.array([choose_frames(np.ones(21, dtype=bool), 4, rng) for _ in range(4000)])
    gaps = drawn[:, 1] - drawn[:, 0]
    assert gaps.min() == 1 and gaps.max() == 4
    counts = np.bincount(drawn[:, 0], minlength=21)
    assert counts[20] == 0 and np.abs(counts[:20] - 200).max() < 5 * np.sqrt(200)


def test_gap_grows_where_no_frame_follows():
    """Frames 0 and 29 only, and at most 3 apart at first: 3 + 5 k >= 29 after six tries."""
    visible = np.zeros(30, dtype=bool)
    visible[[0, 29]] = True
    assert choose_frames(visible, 3, np.random.default_rng(0)) == (0, 29)


def test_images_give_the_same_one_twice(tmp_path):
    trees.write_coco(tmp_path, [(30, [20, 15, 10, 12], False)])
    pairs = training_pairs(configured({"it": {"kind": "coco", "root": str(tmp_path)}}), seed=0)
    assert frames_of(pairs[0]) == [0, 0]


def test_short_and_hidden_sequences_are_passed_over():
    hidden = [True] * 4 + [False] * 26
    sequences = [Drawn("short", 19), Drawn("hidden", 30, hidden), Drawn("good", 20, [False] * 15 + [True] * 5)]
    pairs = pairs_of(sequences)
    assert {pairs[i].provenance.partition(" ")[0] for i in range(30)} == {"it/good"}
    with pytest.raises(DataError, match=r"it: 1000 draws gave no pair: expected sequences with 20 frames, 5 of them"):
        pairs_of(sequences[:2])[0]


def test_crops_without_a_pixel_are_drawn_again():
    """The target of the last 24 frames is far outside: any pair with one of those as its template has no pixel."""
    boxes = np.array(trees.boxes_of(30))
    boxes[6:, 0] = 500
    pairs = pairs_of([Drawn("it", 30, boxes=boxes)], max_gap=3)
    for i in range(20):
        template, search = frames_of(pairs[i])
        assert template < 6 and search < 6
        assert pairs[i].search.any() and pairs[i].template.any()


def test_crops_whose_samples_are_all_padding_are_drawn_again():
    """The last sample is in column 112 of 128. Of the late frames columns 114 and more show the frame, the first ones
    of a mirrored crop.
    """
    boxes = np.array([[30.0, 20.0, 16.0, 16.0]] * 30)  # a region of 64 pixels
    boxes[6:, 0] = -33  # its columns are -57 ... 6 of the frame
    pairs = pairs_of([Drawn("it", 30, boxes=boxes)], **PLAIN, max_gap=29)
    mirrored = pairs_of([Drawn("it", 30, boxes=boxes)], **{**PLAIN, "crop_flip": 1}, max_gap=29)
    assert all(frames_of(pairs[i])[1] < 6 for i in range(20))
    assert max(frames_of(mirrored[i])[1] for i in range(20)) >= 6


def test_labels_without_augmentation():
    """The target is in the middle of both crops: (S - 1) / 2 pixels, and as large as the factors say."""
    sample = pairs_of([Drawn("it")], **PLAIN)[0]
    side = np.ceil(np.sqrt(120) * 4)
    assert sample.box.tolist() == pytest.approx([127 / 256, 127 / 256, 10 / side, 12 / side], rel=1e-6)
    side = np.ceil(np.sqrt(120) * 2)
    assert sample.template_box.tolist() == pytest.approx([63 / 128, 63 / 128, 10 / side, 12 / side], rel=1e-6)


def test_only_the_search_region_is_jittered():
    pairs = pairs_of([Drawn("it")], **{**PLAIN, "jitter": {"scale": 0.25, "center": 1.5}})
    samples = [pairs[i] for i in range(20)]
    assert all(sample.template_box[:2].tolist() == pytest.approx([63 / 128] * 2, rel=1e-6) for sample in samples)
    assert len({tuple(sample.template_box.tolist()) for sample in samples}) == 1
    moved = torch.stack([sample.box[:2] - 127 / 256 for sample in samples]).abs()
    # Of 1.5 sizes, in a region of 4 of them.
    assert 0.2 < moved.max() <= 1.5 / 4


class BrightSquare(Drawn):
    """The target is a white square on black, well inside of a large frame."""

    def __init__(self):
        super().__init__("square", 30, boxes=[[100.0 + i, 90.0, 24.0, 24.0] for i in range(30)])

    def frame(self, index):
        image = np.zeros((200, 240, 3), dtype=np.uint8)
        image[90:114, 100 + index : 124 + index] = 150
        return image


def test_labels_follow_the_pixels():
    """The brightness' middle is at the label, with every augmentation on.

    Half a pixel of the frame by rounding the region, one more by mirroring the frame, a pixel of the crop by mirroring
    it (published conventions; `test_augmentation` has their signs): nothing else moves the label.
    """
    # Crops are enlarged: bilinear interpolation then keeps the sum of the brightness.
    model = {"template": {"size": 96, "factor": 2.0}, "search": {"size": 192, "factor": 4.0}}
    config = parse_config({"model": model, "data": {"jitter": {"scale": 0.1, "center": 0.3}}})
    pairs = PairDataset({"it": Sequences([BrightSquare()], lambda sequence: sequence)}, {"it": 1.0}, config, 0)
    for i in range(40):
        sample = pairs[i]
        for image, box in ((sample.template, sample.template_box), (sample.search, sample.box)):
            weight, size = image[0].double(), image.shape[1]
            index = torch.arange(size)
            found = torch.stack([(weight.sum(0) * index).sum(), (weight.sum(1) * index).sum()]) / weight.sum()
            pixel = box[2] * size / 24  # of the frame, in pixels of the crop
            off = (found - box[:2] * size).abs()
            assert off[0] <= 1.5 * pixel + 1.05 and off[1] <= 0.5 * pixel + 0.05
            # Blurred edges hold half of what the square's outermost pixels lose: the sum is the area.
            area = float(weight.sum() / weight.max())
            assert area == pytest.approx(float(box[2] * box[3]) * size**2, rel=0.05)


def test_stretched_labels_follow_the_pixels():
    """Template and search region are stretched each by itself, and the extent of what is bright is the label's."""
    model = {"template": {"size": 96, "factor": 2.0}, "search": {"size": 192, "factor": 4.0}}
    config = parse_config({"model": model, "data": {**PLAIN, "stretch": 0.3}})
    pairs = PairDataset({"it": Sequences([BrightSquare()], lambda sequence: sequence)}, {"it": 1.0}, config, 0)
    aspects = []
    for i in range(30):
        sample = pairs[i]
        for image, box in ((sample.template, sample.template_box), (sample.search, sample.box)):
            bright, size = image[0] > 75, image.shape[1]
            extent = torch.tensor([bright.any(0).sum(), bright.any(1).sum()])
            # Edges are blurred over a pixel of the frame, which is two of a crop, and found to a whole one.
            assert ((extent - box[2:] * size).abs() <= 2).all()
        aspects.append([float(box[2] / box[3]) for box in (sample.template_box, sample.box)])
    logarithms = np.log(aspects)
    # Of 60 numbers: four standard errors of a deviation are 0.37 of it, of a correlation of 30 pairs 0.73.
    assert logarithms.std() == pytest.approx(0.3, rel=0.37)
    assert abs(np.corrcoef(logarithms.T)[0, 1]) < 0.73


def test_colours_and_detail_change_crop_by_crop():
    plain = pairs_of([BrightSquare()], **PLAIN)
    for change in ({"color": 0.1}, {"degrade": 1}):
        changed = pairs_of([BrightSquare()], **{**PLAIN, **change})
        samples = [(plain[i], changed[i]) for i in range(5)]
        assert all(torch.equal(before.box, after.box) for before, after in samples)
        assert not any(torch.equal(before.search, after.search) for before, after in samples)
        assert not any(torch.equal(before.template, after.template) for before, after in samples)


def test_augmentation_happens_as_often_as_configured(monkeypatch):
    """Grayscale 1 makes both grey, brightness changes each for itself."""
    pairs = pairs_of([Drawn("it")], **{**PLAIN, "grayscale": 1})
    sample = pairs[0]
    for image in (sample.template, sample.search):
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    plain, flipped = pairs_of([Drawn("it")], **PLAIN)[0], pairs_of([Drawn("it")], **{**PLAIN, "crop_flip": 1})[0]
    assert torch.equal(plain.search.flip(2), flipped.search) and torch.equal(plain.template.flip(2), flipped.template)
    brighter = pairs_of([BrightSquare()], **{**PLAIN, "brightness": 0.2})
    factors = torch.stack([brighter[i].brightness for i in range(60)])
    assert factors.min() > 0.79 and factors.max() < 1.21 and factors.std(0).min() > 0.08
    assert (factors[:, 0] - factors[:, 1]).abs().max() > 0.1
    assert (plain.brightness == 1).all()


def broken_tree(tmp_path, broken, count=20):
    """A folder of folders, `broken` of which have an image that cannot be read in every frame."""
    for i in range(count):
        folder = trees.write_folder(tmp_path / f"{i:02d}", 20)
        if i < broken:
            for image in folder.glob("*.jpg"):
                image.write_bytes(b"\xff\xd8 not an image")
    return {"it": {"kind": "folder", "root": str(tmp_path)}}


def test_broken_images_are_replaced_and_reported(tmp_path, caplog):
    pairs = training_pairs(configured(broken_tree(tmp_path, 2), failure_share=0.5), seed=0)
    with caplog.at_level(logging.WARNING):
        samples = [pairs[i] for i in range(60)]
    assert not any(sample.provenance.startswith(("it/00", "it/01")) for sample in samples)
    assert pairs.failures == len(caplog.records) > 0
    assert pairs.draws == 60 + pairs.failures
    assert all(f"{tmp_path}/0" in record.getMessage() for record in caplog.records)
    # The replacement does not depend on what happened before.
    fresh = training_pairs(configured_like(pairs), seed=0)
    assert all(same(fresh[i], samples[i]) for i in (59, 0, 17))


def test_too_many_failures_stop(tmp_path):
    """Three are allowed, then a tenth of the draws; with everything broken the fourth failure stops."""
    pairs = training_pairs(configured(broken_tree(tmp_path, 20), failure_share=0.1, failures=3), seed=0)
    with pytest.raises(DataError, match=r"4 of 4 draws failed, more than 3 and more than 10.0%; the last: .*jpg"):
        pairs[0]
    assert pairs.failures == 4


def test_too_many_failures_stop_a_loader_too(tmp_path):
    pairs = training_pairs(configured(broken_tree(tmp_path, 20), failures=2), seed=0)
    with pytest.raises(DataError, match="3 of 3 draws failed"):
        next(iter(DataLoader(pairs, 2, num_workers=1)))


def test_broken_annotations_count_as_failures(tmp_path):
    train = broken_tree(tmp_path, 0, count=3)
    (tmp_path / "01" / "groundtruth.txt").write_text("1,2,3\n")
    pairs = training_pairs(configured(train, failure_share=0.9), seed=0)
    for i in range(20):
        assert not pairs[i].provenance.startswith("it/01")
    assert pairs.failures > 0


@pytest.mark.parametrize("box", [[0, 0, 1e9, 1e9], [3, 3, 1e-9, 1e-9]], ids=["large", "small"])
def test_boxes_that_cannot_be_cropped_count_as_failures(box):
    with pytest.raises(DataError, match=r"11 of 11 draws failed.*it/it frames \d+, \d+: no crops of this size"):
        pairs_of([Drawn("it", 30, boxes=[box] * 30)])[0]


def test_nothing_to_train_on():
    with pytest.raises(DataError, match=r"data\.train: names no data set"):
        training_pairs(configured(), seed=0)


@pytest.mark.parametrize("index", [-1, 100])
def test_index_outside_the_epoch(index):
    with pytest.raises(IndexError, match=f"sample {index}: expected 0 ... 99"):
        pairs_of([Drawn("it")])[index]


@pytest.mark.parametrize("change", [{"color": 0.3}, {"degrade": 1}], ids=str)
def test_what_is_outside_of_the_frame_stays_black(change):
    """As in tracking, whatever becomes of the colours."""
    boxes = np.array([[0.0, 0.0, 16.0, 16.0]] * 30)
    plain = pairs_of([Drawn("it", 30, boxes=boxes)], **PLAIN)
    changed = pairs_of([Drawn("it", 30, boxes=boxes)], **{**PLAIN, **change})
    for i in range(10):
        before, after = plain[i].search, changed[i].search
        assert not torch.equal(before, after)
        outside = (before == 0).all(0)
        assert outside.float().mean() > 0.5 and not after[:, outside].any()
