"""Synthetic sequences: a target among look-alikes over a moving background, every frame a pure function of the seed."""

from functools import cached_property, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ...boxes import Boxes
from ...config import SyntheticConfig
from ...crop import Image
from ..augmentation import random_colors
from ..sequence import Sequences
from .effects import Effects
from .faults import Faults
from .looks import (
    SCENE_HEIGHT,
    SCENE_WIDTH,
    SCENES,
    Source,
    painter,
    photograph_scene,
    random_look,
    scene,
)
from .motion import Array, wander, wiggle
from .objects import random_objects
from .shapes import Outline, cover_outline
from .sprite import Motion, Sprite

#: Seeds from here on are held out: their textures and backgrounds are of another bank than those below.
HELD_OUT = 2**32
# A target whose box inside the frame is thinner than this many pixels is absent.
_THINNEST = 1.0
# Deviations of the logarithms of width and height, against the target's: of other objects, of look-alikes.
_OTHER_SIZES, _ALIKE_SIZES = 0.4, 0.12
# Deviation of the phases of a bend, in radians.
_PHASES = 1.5


class SyntheticSequence:
    """A rendered video. Opening it decides everything; a frame is drawn when it is asked for.

    The box is the tight one around the target's outline, whatever hides it, as far as it lies inside the frame: as
    LaSOT's annotators draw it.
    """

    def __init__(self, config: SyntheticConfig, seed: int) -> None:
        """Sequence `seed` of a difficulty.

        Args:
            config: its size and difficulty.
            seed: at least 0; from HELD_OUT on, sequences share no texture with those before, photographs excepted.

        """
        self.name = f"synthetic-{seed}"
        self.config = config
        rng = np.random.default_rng(seed)
        source = Source(seed // HELD_OUT, config.photographs)
        self._camera = _Camera(rng, config, source)
        self._effects = Effects(rng, config)
        self._faults = Faults(seed, config)
        size = np.exp(rng.uniform(*np.log(config.size)))
        half = 0.5 * size * np.exp(rng.uniform(*np.log(config.aspect)) * np.array([0.5, -0.5]))
        speed, margin = rng.uniform(*config.speed) * size, rng.uniform(*config.margin) * size
        objects = random_objects(rng, config, source)
        half = objects.fit(half)
        # What keeps near the target, or hides it, stays where it would have been without its absences.
        center = _paths(rng, config, 1, margin, speed)[0]
        target = objects.target(_motion(rng, config, center, half))
        self.target = target.placed(self._faults.leaving(center, target.reach().max()))

        passers, alike = _whole(rng, config.passers), _whole(rng, config.distractors)
        paths = _paths(rng, config, passers + alike, margin, speed)
        behind, front = [], []
        for path in paths[:passers]:
            motion = _motion(rng, config, path, half * np.exp(_OTHER_SIZES * rng.standard_normal(2)))
            behind.append(objects.other(motion))
        for path in paths[passers:]:
            if rng.random() < config.companion:
                path = center + wiggle(rng, config.frames, 2, config.distance * size)
            motion = _motion(rng, config, path, half * np.exp(_ALIKE_SIZES * rng.standard_normal(2)))
            sprite = objects.alike(motion, rng.random() < config.same_shape)
            (front if rng.random() < config.in_front else behind).append(sprite)
        front += [_occluder(rng, config, center, size, source) for _ in range(_whole(rng, config.occlusions))]
        # Whoever starts on the target passes behind it: the first frame shows what is to be tracked.
        first = np.zeros(1, dtype=int)
        starts_on = [sprite.covers(*self.target.inside(first), first).any() for sprite in front]
        self._front = [sprite for sprite, on in zip(front, starts_on, strict=True) if not on]
        self._behind = behind + [sprite for sprite, on in zip(front, starts_on, strict=True) if on]

    def __len__(self) -> int:
        return len(self._faults.kept)

    @cached_property
    def boxes(self) -> Boxes:
        """(N, 4) NaN where the target is outside of the frame."""
        whole = self.target.boxes(self._faults.kept)
        limit = np.array([self.config.width, self.config.height], dtype=np.float64)
        low, high = np.clip(whole[:, :2], 0, limit), np.clip(whole[:, :2] + whole[:, 2:], 0, limit)
        boxes = np.concatenate([low, high - low], axis=-1)
        boxes[(boxes[:, 2:] < _THINNEST).any(axis=-1)] = np.nan
        return boxes

    @cached_property
    def other_boxes(self) -> Boxes:
        """(M, N, 4) tight boxes of the M objects that are not the target, wherever they are."""
        boxes = [sprite.boxes(self._faults.kept) for sprite in (*self._behind, *self._front)]
        return np.stack(boxes) if boxes else np.empty((0, len(self), 4))

    @cached_property
    def shown(self) -> Array:
        """(N,) share of the target's area that is inside the frame and behind nothing; 0 where the picture is black."""
        x, y = self.target.inside(np.arange(self.config.frames))
        shown = (x >= 0) & (x < self.config.width) & (y >= 0) & (y < self.config.height)
        for sprite in self._front:
            distance = np.hypot(*(sprite.motion.center - self.target.motion.center).T)
            near = np.flatnonzero(distance < sprite.reach() + self.target.reach())
            shown[near] &= ~sprite.covers(x[near], y[near], near)
        return ((shown @ self.target.shares) * ~self._faults.black)[self._faults.kept]

    @cached_property
    def visible(self) -> NDArray[np.bool_]:
        """(N,) whether more than the configured share of the target is seen."""
        return (self.shown > self.config.visible_share) & np.isfinite(self.boxes).all(axis=-1)

    def frame(self, index: int) -> Image:
        """Frame `index`: (height, width, 3) uint8, RGB."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: expected a frame from 0 to {len(self) - 1}, got {index}")
        index = int(self._faults.kept[index])
        canvas = self._camera.background(index)
        for sprite in (*self._behind, self.target, *self._front):
            sprite.draw(canvas, index)
        return self._faults.apply(self._effects.apply(canvas, index), index)


class _Camera:
    """The background, and how the camera moves over it."""

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig, source: Source) -> None:
        self._size = (config.width, config.height)
        photograph = config.photographic > 0 and rng.random() < config.photographic
        self._scene = photograph_scene(rng, source) if photograph else scene(source, int(rng.integers(SCENES)))
        self._colors = random_colors(rng, 0.08)
        place, angle, zoom = config.camera
        start = rng.uniform((0.3 * SCENE_WIDTH, 0.3 * SCENE_HEIGHT), (0.7 * SCENE_WIDTH, 0.7 * SCENE_HEIGHT))
        self._center = start + wiggle(rng, config.frames, 2, place * config.width)
        # A photograph stays upright.
        start = rng.uniform(-np.pi, np.pi) * (not photograph)
        self._angle = start + wiggle(rng, config.frames, 1, angle)[:, 0]
        # Pixels of the scene for one of the frame.
        nearest = SCENE_HEIGHT / np.hypot(*self._size)
        self._scale = nearest * np.exp(rng.uniform(-0.6, 0.3) + wiggle(rng, config.frames, 1, zoom)[:, 0])
        self._mirror = rng.choice([-1.0, 1.0])

    def background(self, frame: int) -> Image:
        """What it sees of the scene."""
        cos, sin = self._scale[frame] * np.cos(self._angle[frame]), self._scale[frame] * np.sin(self._angle[frame])
        turn = np.array([[cos * self._mirror, -sin], [sin * self._mirror, cos]])
        shift = self._center[frame] - turn @ (np.array(self._size) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = np.column_stack([turn, shift])
        seen = cv2.warpAffine(self._scene, matrix, self._size, flags=flags, borderMode=cv2.BORDER_REFLECT)
        return cv2.transform(cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB), self._colors)


def _whole(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _paths(rng: np.random.Generator, config: SyntheticConfig, count: int, margin: float, speed: float) -> Array:
    """(count, N, 2) paths of centres that stay `margin` pixels inside the frame; both in pixels, `speed` a frame."""
    limit = np.array([config.width, config.height], dtype=np.float64)
    inset = np.minimum(margin, 0.4 * limit)
    low = np.broadcast_to(inset, (count, 2))
    paths = wander(rng, config.frames, np.full(count, speed), low, np.broadcast_to(limit - inset, (count, 2)))
    return paths.transpose(1, 0, 2)


def _motion(rng: np.random.Generator, config: SyntheticConfig, center: Array, half: Array) -> Motion:
    """A motion along a path, with turns, changes of size and bends. `half` is its size in the first frame."""
    deviation = np.array([config.turn, config.scale, config.stretch, _PHASES, _PHASES])
    angle, scale, stretch, *phase = wiggle(rng, config.frames, 5, deviation).T
    scale, stretch = scale - scale[0], stretch - stretch[0]
    return Motion(
        center=center,
        angle=angle,
        half=half * np.exp(np.stack([scale + stretch, scale - stretch], axis=-1)),
        phase=np.stack(phase, axis=-1) + rng.uniform(0, 2 * np.pi, 2),
        bend=rng.uniform(0, config.deform, 2),
        waves=rng.uniform(1, 3, 2),
    )


def _occluder(rng: np.random.Generator, config: SyntheticConfig, target: Array, size: float, source: Source) -> Sprite:
    """Something that moves across the target in a straight line, as the target sees it."""
    width = rng.uniform(*config.occluder) * size
    half = 0.5 * width * np.exp(rng.uniform(0, 0.8) * np.array([-0.3, 1.0]))
    direction = rng.uniform(-np.pi, np.pi)
    along = np.array([np.cos(direction), np.sin(direction)])
    middle, lasts = rng.uniform(0.15, 0.95) * config.frames, rng.uniform(*config.occlusion_frames)
    travelled = (np.arange(config.frames) - middle) * (width + size) / lasts
    aside = rng.uniform(-0.3, 0.3) * size * along[::-1] * (-1, 1)
    center = target + travelled[:, None] * along + aside
    motion = _motion(rng, config, center, half)
    # Its short side lies along its way.
    motion = motion._replace(angle=direction + 0.3 * motion.angle)
    return Sprite(Outline(cover_outline(rng)), motion, painter(rng, random_look(rng), source))


def synthetic_sequence(config: SyntheticConfig, seed: int) -> SyntheticSequence:
    """Sequence `seed` of a difficulty; see `SyntheticSequence`."""
    return SyntheticSequence(config, seed)


def synthetic_sequences(config: SyntheticConfig, split: str, count: int) -> Sequences[int]:
    """The first `count` sequences for training (split "train") or held out from it ("held_out")."""
    first = HELD_OUT if split == "held_out" else 0
    return Sequences(range(first, first + count), partial(synthetic_sequence, config))
