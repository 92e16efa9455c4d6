"""Synthetic video: a function of its seed, boxes and visibility against pixels, and how hard it is."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grm.boxes import iou
from grm.config import SyntheticConfig, load_config, parse_config
from grm.data import held_out_sequences, training_pairs
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.data.synthetic.effects import Effects
from grm.data.synthetic.looks import scene
from grm.data.synthetic.motion import spline_matrix, wander
from grm.data.synthetic.shapes import random_outline
from grm.data.synthetic.textures import _PATTERNS, SIDE, _of_photograph, photographs, texture
from grm.errors import DataError

from .drawn import opacity

pytest.importorskip("matplotlib")

CONFIG = SyntheticConfig()
ARTICULATED = SyntheticConfig(articulated=1)
SEEDS = range(12)


@pytest.fixture(scope="module")
def sequences():
    return [synthetic_sequence(CONFIG, seed) for seed in SEEDS]


def test_a_frame_is_a_function_of_its_seed(sequences):
    """Whatever was rendered before, with caches full or empty, after pickling."""
    first = [sequences[1].frame(i) for i in (3, 40)]
    for cached in (texture, scene, photographs):
        cached.cache_clear()
    again = pickle.loads(pickle.dumps(synthetic_sequence(CONFIG, 1)))
    assert np.array_equal(again.frame(40), first[1]) and np.array_equal(again.frame(3), first[0])
    assert np.array_equal(again.boxes, sequences[1].boxes) and np.array_equal(again.visible, sequences[1].visible)
    assert not np.array_equal(synthetic_sequence(CONFIG, 2).frame(3), first[0])


def test_form(sequences):
    for sequence in sequences:
        assert len(sequence) == CONFIG.frames
        frame = sequence.frame(len(sequence) - 1)
        assert frame.shape == (CONFIG.height, CONFIG.width, 3) and frame.dtype == np.uint8
        assert sequence.boxes.shape == (80, 4) and sequence.visible.shape == (80,)
        assert sequence.visible.dtype == bool and np.isfinite(sequence.boxes[sequence.visible]).all()
    with pytest.raises(IndexError, match="synthetic-0: expected a frame from 0 to 79, got 80"):
        sequences[0].frame(80)


def test_boxes_are_tight_around_the_pixels(sequences, articulated):
    """The outermost touched pixels are those that the box's edges lie in.

    Edges are drawn on half pixels, and OpenCV fills the samples that an edge passes: half a pixel either way.
    """
    for sequence in sequences + articulated:
        for frame in (0, 37, 79):
            seen = opacity(sequence.target, frame)[100:-100, 100:-100] > 0.05
            columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
            x, y, w, h = sequence.boxes[frame]
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(np.array(found) - (x, y, x + w, y + h)).max() <= 1.5


def test_boxes_end_at_the_frame(sequences, articulated):
    boxes = np.concatenate([sequence.boxes for sequence in sequences + articulated])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    assert np.nanmin(corners) >= 0 and (np.nanmax(corners, axis=0) <= (320, 240, 320, 240)).all()
    assert (np.nanmax(corners, axis=0)[2:] == (320, 240)).any()


def test_outlines_hold_as_much_as_is_drawn(sequences):
    """The polygon's area by the shoelace formula against the sum of opacities."""
    for sequence in sequences:
        x, y = (corners[0] for corners in sequence.target.outline(np.array([20])))
        area = 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))
        # Half a sample, a quarter of a pixel, more all around.
        around = np.hypot(np.diff(x, append=x[0]), np.diff(y, append=y[0])).sum()
        assert abs(opacity(sequence.target, 20).sum() - area) <= 0.5 * around


@pytest.mark.parametrize(("config", "tolerance"), [(CONFIG, 1), (ARTICULATED, 2)], ids=["painted", "articulated"])
def test_shown_share_against_pixels(config, tolerance):
    """What is in the frame and behind nothing, by points, against a count of pixels.

    Points of parts that overlap count for each part, so what is hidden there counts twice.
    """
    compared = []
    for seed in range(40):
        sequence = synthetic_sequence(config, seed)
        partly = np.flatnonzero((sequence.shown > 0.05) & (sequence.shown < 0.95))[:2]
        for frame in [*partly, 50]:
            target = opacity(sequence.target, frame)
            left = target.copy()
            for sprite in sequence._front:
                left *= 1 - opacity(sprite, frame)
            compared.append((left[100:-100, 100:-100].sum() / target.sum(), sequence.shown[frame]))
    pixels, points = np.array(compared).T
    assert len(compared) > 60 and pixels.min() < 0.3
    # An edge across the middle has 8 of the 64 points near to it, any of which may be on the wrong side.
    assert np.abs(pixels - points).max() < tolerance * 8 / 64
    assert np.abs(pixels - points).mean() < tolerance * 2 / 64


def test_hidden_is_not_visible():
    """Some frames of some sequences are hidden altogether, a few at a time; the first frame never is."""
    lengths = []
    for seed in range(60):
        sequence = synthetic_sequence(CONFIG, seed)
        assert sequence.visible[0] and sequence.shown[0] > 0.3
        assert np.array_equal(sequence.visible, sequence.shown > CONFIG.visible_share)
        edges = np.flatnonzero(np.diff(sequence.visible.astype(int), prepend=1, append=1))
        lengths += list(edges[1::2] - edges[::2])
    assert len(lengths) > 10 and np.median(lengths) < 20


def test_nothing_starts_in_front_of_the_target():
    crowd = CONFIG.model_copy(update={"distractors": (4, 4), "companion": 1, "in_front": 1})
    hidden_later = 0
    for seed in range(30):
        sequence = synthetic_sequence(crowd, seed)
        target = opacity(sequence.target, 0)
        for sprite in sequence._front:
            assert (target * opacity(sprite, 0)).sum() < 0.1 * target.sum()
        hidden_later += sequence.shown.min() < 0.5
    assert hidden_later > 15


def test_the_first_box_does_not_follow_the_target():
    """The evaluation's difficulty, fixed beforehand: AO of the unmoved first box at most 0.25 on held-out sequences."""
    config = load_config("synthetic_tiny")
    overlaps, hidden, others = [], 0, []
    for sequence in held_out_sequences(config):
        assert sequence.config.distractors[0] >= 1
        boxes = sequence.boxes[1:][np.isfinite(sequence.boxes[1:]).all(axis=1)]
        overlaps.append(iou(sequence.boxes[0], boxes).mean())
        hidden += (~sequence.visible).sum()
        others.append(len(sequence._behind) + len(sequence._front))
    assert len(overlaps) == 20
    assert np.mean(overlaps) <= 0.25
    assert hidden > 0 and min(others) >= 1


def test_motion_can_be_followed(sequences):
    """From frame to frame the target moves less than its size; the search region reaches 1.5 sizes further than it."""
    for sequence in sequences:
        centers = sequence.boxes[:, :2] + sequence.boxes[:, 2:] / 2
        size = np.sqrt(sequence.boxes[:, 2:].prod(axis=1))
        assert np.nanmax(np.abs(np.diff(centers, axis=0)) / size[1:, None]) < 1


def test_distractors_look_alike(sequences):
    """The mean colour of what is made after the target is nearer to the target's than that of anything else."""
    alike, other = [], []
    for sequence in sequences:
        own = sequence.target.texture.mean(axis=(0, 1))
        for sprite in (*sequence._behind, *sequence._front):
            kin = sprite._paint.args[1].main == sequence.target._paint.args[1].main
            (alike if kin else other).append(np.linalg.norm(sprite.texture.mean(axis=(0, 1)) - own))
    assert len(alike) >= len(SEEDS) and len(other) > 0
    assert np.mean(alike) < 0.6 * np.mean(other)


def test_held_out_sequences_have_textures_of_their_own():
    assert not any(np.array_equal(texture(0, n), texture(1, n)) for n in range(10))
    held_out = synthetic_sequence(CONFIG, HELD_OUT)
    assert held_out.target._paint.args[2].bank == 1
    assert synthetic_sequence(CONFIG, HELD_OUT - 1).target._paint.args[2].bank == 0


@given(st.integers(0, 10**6), st.integers(0, 79))
@settings(max_examples=25, deadline=None)
def test_bends_are_undone(seed, frame):
    """To the frame and back; the outline just inside is covered, just outside is not."""
    sprite = synthetic_sequence(CONFIG, seed % 8).target
    frames = np.array([frame])
    points = np.random.default_rng(seed).uniform(-1, 1, (2, 20))
    back = sprite._to_object(*sprite._to_frame(points, frames), frames)
    assert np.concatenate(back) == pytest.approx(points, abs=1e-9)
    for share, covered in ((0.99, True), (1.01, False)):
        assert (sprite.covers(*sprite._to_frame(share * sprite.shape.corners, frames), frames) == covered).all()


@given(st.integers(20, 200))
@settings(max_examples=20, deadline=None)
def test_splines_are_averages(frames):
    """Weights are positive and sum to 1, so a curve stays among its control values; a straight line stays straight."""
    matrix = spline_matrix(frames)
    assert matrix.min() >= 0 and matrix.sum(axis=1) == pytest.approx(1)
    line = matrix @ np.arange(matrix.shape[1])
    assert np.diff(line) == pytest.approx(1 / 8)


def test_paths_stay_in_their_box_and_keep_their_speed():
    """The box is wide here, so that few turn back; a spline smooths, so the speed is somewhat below what was asked."""
    rng, low, high = np.random.default_rng(0), np.full((200, 2), 50.0), np.full((200, 2), 1050.0)
    paths = wander(rng, 80, np.full(200, 4.0), low, high)
    assert paths.shape == (80, 200, 2) and paths.min() >= 50 and paths.max() <= 1050
    speed = np.sqrt((np.diff(paths, axis=0) ** 2).sum(-1).mean())
    assert 0.6 * 4 < speed < 4
    turns = np.diff(paths, n=2, axis=0)
    assert np.abs(turns).max() < 4, "a path has inertia"


def test_outlines_fit_their_box():
    rng = np.random.default_rng(0)
    angles = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    for _ in range(60):
        radii = random_outline(rng)
        assert radii.min() > 0.05
        extent = max(np.abs(radii * np.cos(angles)).max(), np.abs(radii * np.sin(angles)).max())
        assert extent == pytest.approx(1)


@pytest.mark.parametrize("pattern", _PATTERNS, ids=lambda pattern: pattern.__name__)
def test_patterns_are_varied(pattern):
    """Every kind of texture has structure, and two of a kind differ."""
    images = [pattern(np.random.default_rng(seed)) for seed in range(6)]
    for image in images:
        assert image.shape == (192, 192, 3) and image.dtype == np.uint8
    assert np.mean([image.std(axis=(0, 1)).mean() for image in images]) > 12
    assert len({image.tobytes() for image in images}) == 6


def test_photographs(tmp_path):
    """Those that matplotlib brings, and a folder's."""
    installed = photographs()
    assert len(installed) == 6 and all(image.std() > 20 for image in installed)
    noise = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), noise)
    assert [image.shape for image in photographs(tmp_path)[6:]] == [(512, 439, 3)]
    with pytest.raises(DataError, match="holds no images"):
        photographs(tmp_path / "..")


OFF = {"light": 0, "cast": 0, "shadow": (0, 0), "blur": 0, "softness": (0, 0), "noise": (0, 0)}


def test_effects_can_be_turned_off():
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    plain = Effects(np.random.default_rng(0), CONFIG.model_copy(update=OFF))
    assert np.array_equal(plain.apply(image, 5), image)


@pytest.mark.parametrize(
    ("on", "measure"),
    [
        ({"light": 0.3}, lambda a, b: abs(a.mean() / b.mean() - 1) > 0.05),
        ({"cast": 0.3}, lambda a, b: np.ptp(a.mean(axis=(0, 1)) / b.mean(axis=(0, 1))) > 0.05),
        ({"shadow": (0.5, 0.5)}, lambda a, b: a.mean() < 0.95 * b.mean()),
        ({"blur": 1, "blur_width": (8, 8)}, lambda a, b: np.diff(a, axis=1).std() < 0.9 * np.diff(b, axis=1).std()),
        ({"softness": (3, 3)}, lambda a, b: np.diff(a, axis=1).std() < 0.7 * np.diff(b, axis=1).std()),
        ({"noise": (20, 20)}, lambda a, b: 15 < (a - b).std() < 25),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_effects(on, measure):
    """Each does what it is called, in one frame of most sequences."""
    config = CONFIG.model_copy(update={**OFF, **on})
    image = np.random.default_rng(0).integers(60, 180, (240, 320, 3), dtype=np.uint8)
    seen = [
        measure(Effects(np.random.default_rng(s), config).apply(image, 30).astype(float), image * 1.0) for s in SEEDS
    ]
    assert np.mean(seen) >= 0.4


def test_photographs_that_are_missing(tmp_path):
    values = {"train": {"it": {"kind": "synthetic", "limit": 3}}, "synthetic": {"photographs": str(tmp_path / "none")}}
    with pytest.raises(DataError, match=r"it: missing: .*none"):
        training_pairs(parse_config({"data": values}), seed=0)
    with pytest.raises(DataError, match="it: split: synthetic has train, held_out, got 'test'"):
        training_pairs(parse_config({"data": {"train": {"it": {"kind": "synthetic", "limit": 3, "split": "test"}}}}), 0)


def test_pairs_of_synthetic_video():
    """The preset's pairs: both crops show something, the label is in the search region more often than not."""
    pairs = training_pairs(load_config("synthetic_tiny"), seed=0)
    assert len(pairs) == 5000
    samples = [pairs[i] for i in range(20)]
    assert samples[0].template.shape == (3, 96, 96) and samples[0].search.shape == (3, 192, 192)
    assert len({sample.provenance for sample in samples}) == 20
    boxes = np.array([sample.box.tolist() for sample in samples])
    assert np.abs(boxes[:, :2] - 0.5).max() < 0.6 and (boxes[:, 2:] > 0.05).all()
    assert min(float(sample.search.float().std()) for sample in samples) > 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.synthetic.size=[30, 20]", "size: expected the smaller number first, got"),
        ("data.synthetic.camera=[-1, 0, 0]", "camera: expected numbers from 0 to 4, got"),
        ("data.synthetic.size=[0, 20]", "data.synthetic.size, data.synthetic.aspect: expected a size from 1"),
        ("data.synthetic.frames=10", "data.synthetic.frames: input should be greater than or equal to 20, got 10"),
        ("data.synthetic.quality=[0, 50]", "data.synthetic.quality: expected 1 or more, got"),
        ("data.synthetic.nois=[0, 1]", "data.synthetic.nois: unknown key, did you mean 'noise'"),
    ],
)
def test_mistakes_in_the_difficulty(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("synthetic_tiny", [override])


@pytest.mark.parametrize("config", [CONFIG, ARTICULATED], ids=["painted", "articulated"])
def test_absences_leave_all_else_as_it_is(config):
    """The target is out of the frame for some time and comes back; what is not behind it is the same."""
    away = config.model_copy(update={"absences": (1, 1), "absence_frames": (10, 12)})
    for seed in range(6):
        sequence, before = synthetic_sequence(away, seed), synthetic_sequence(config, seed)
        absent = np.isnan(sequence.boxes).any(-1)
        assert not sequence.visible[absent].any() and np.isnan(sequence.boxes[absent]).all()
        edges = np.flatnonzero(np.diff(absent.astype(int)))
        assert len(edges) == 2 and 10 <= edges[1] - edges[0] < 12 + 2 * 8
        assert np.array_equal(sequence.frame(0), before.frame(0)) and np.array_equal(sequence.boxes[0], before.boxes[0])
        assert np.array_equal(sequence.other_boxes, before.other_boxes)
        frame = int(edges.mean())
        assert (opacity(sequence.target, frame)[100:-100, 100:-100] == 0).all()
        hidden = opacity(before.target, frame)[100:-100, 100:-100]
        same = (sequence.frame(frame) == before.frame(frame)).all(-1)
        # Blur carries what is in a pixel to its neighbours.
        assert same[cv2.dilate(hidden, np.ones((33, 33))) == 0].all() and (hidden.sum() == 0 or not same.all())


def test_dropped_frames():
    dropping = CONFIG.model_copy(update={"dropped": 0.4})
    lengths = []
    for seed in range(8):
        sequence, before = synthetic_sequence(dropping, seed), synthetic_sequence(CONFIG, seed)
        kept = [np.flatnonzero((before.boxes == box).all(-1)).tolist() for box in sequence.boxes]
        kept = [frame[0] for frame in kept if frame]
        assert kept[0] == 0 and kept == sorted(kept)
        assert len(sequence) == len(sequence.visible) == len(sequence.boxes) == len(sequence.shown)
        assert np.array_equal(sequence.frame(len(sequence) - 1), before.frame(sequence._faults.kept[-1]))
        lengths.append(len(sequence))
    # Of a binomial distribution: 8 x 79 frames, each lost with probability 0.4.
    assert abs(8 * 80 - sum(lengths) - 8 * 79 * 0.4) < 4 * np.sqrt(8 * 79 * 0.4 * 0.6)


def test_black_frames():
    sequence = synthetic_sequence(CONFIG.model_copy(update={"blackouts": (3, 3)}), 5)
    black = [not sequence.frame(i).any() for i in range(len(sequence))]
    assert not black[0] and 4 <= sum(black) <= 24
    assert not sequence.visible[black].any() and np.isfinite(sequence.boxes[black]).any()
    assert not sequence.shown[black].any()


def test_compression():
    """The lower the quality, the further from the picture; the best one halves the colours' resolution, no more."""

    def error(quality):
        sequence = synthetic_sequence(CONFIG.model_copy(update={"quality": (quality, quality)}), 5)
        return np.abs(sequence.frame(3).astype(int) - synthetic_sequence(CONFIG, 5).frame(3)).mean()

    errors = [error(quality) for quality in (100, 50, 10, 2)]
    assert errors == sorted(errors) and errors[0] < 4 and errors[3] > 2 * errors[1]


def test_photographs_that_cannot_be_used_are_left_out(tmp_path):
    """Broken ones, and those too small to show anything; one that is long and thin is made no thinner."""
    (tmp_path / "broken.jpg").write_bytes(b"none")
    for name, shape in (("small", (3, 3)), ("thin", (16, 4000)), ("whole", (60, 80))):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((*shape, 3), 9, np.uint8))
    shapes = [picture.shape for picture in photographs(tmp_path)]
    assert shapes[-2:] == [(16, 512, 3), (60, 80, 3)] and shapes[:-2] == [one.shape for one in photographs()]
    for seed in range(20):
        assert _of_photograph(np.random.default_rng(seed), photographs(tmp_path)[-2:]).shape == (SIDE, SIDE, 3)
    for name in ("thin", "whole"):
        (tmp_path / f"{name}.png").unlink()
    photographs.cache_clear()
    with pytest.raises(DataError, match="holds no photographs that can be read, of 16 pixels or more each way"):
        photographs(tmp_path)
