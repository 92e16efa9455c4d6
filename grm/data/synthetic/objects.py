"""What the target of a synthetic video is made as, and with it what looks like it: painted, jointed, or cut out."""

import numpy as np

from ...config import SyntheticConfig
from .articulated import Articulated, Figure
from .builds import random_figure, similar_figure
from .cutout import Cutout, cutouts
from .looks import Look, Source, cutout_painter, painter, random_look, similar_look
from .motion import Array
from .shapes import Outline, random_outline, similar_outline
from .sprite import Motion, Sprite


class Painted:
    """Objects of random outlines and textures."""

    def __init__(self, rng: np.random.Generator, source: Source) -> None:
        self._rng, self._source = rng, source
        self._look, self._radii = random_look(rng), random_outline(rng)

    def fit(self, half: Array) -> Array:
        """The half width and height that the target has, of those that were drawn."""
        return half

    def target(self, motion: Motion) -> Sprite:
        """The target itself."""
        return Sprite(Outline(self._radii), motion, painter(self._rng, self._look, self._source))

    def alike(self, motion: Motion, same_shape: bool) -> Sprite:
        """Something made as the target is."""
        radii = similar_outline(self._rng, self._radii) if same_shape else random_outline(self._rng)
        return Sprite(Outline(radii), motion, painter(self._rng, similar_look(self._rng, self._look), self._source))

    def other(self, motion: Motion) -> Sprite:
        """Anything."""
        radii = random_outline(self._rng)
        return Sprite(Outline(radii), motion, painter(self._rng, random_look(self._rng), self._source))


class Figures:
    """Objects with limbs. Body, limbs and head have a look each, or share one."""

    def __init__(self, rng: np.random.Generator, source: Source) -> None:
        self._rng, self._source = rng, source
        self._figure, self._looks = random_figure(rng), self._any()

    def fit(self, half: Array) -> Array:
        """Half its width and height: as large as was drawn, as wide over high as it is at rest."""
        return np.sqrt(half.prod() * self._figure.aspect ** np.array([1, -1]))

    def target(self, motion: Motion) -> Articulated:
        """The target itself."""
        return self._articulated(self._figure, motion, self._looks)

    def alike(self, motion: Motion, same_shape: bool) -> Articulated:
        """Something in the target's clothes, of its build or not."""
        figure = similar_figure(self._rng, self._figure) if same_shape else random_figure(self._rng)
        return self._articulated(figure, motion, [similar_look(self._rng, look) for look in self._looks])

    def other(self, motion: Motion) -> Articulated:
        """Anything with limbs."""
        return self._articulated(random_figure(self._rng), motion, self._any())

    def _any(self) -> list[Look]:
        body = random_look(self._rng)
        return [body, *(random_look(self._rng) if self._rng.random() < 0.5 else body for _ in range(2))]

    def _articulated(self, figure: Figure, motion: Motion, looks: list[Look]) -> Articulated:
        paints = [painter(self._rng, looks[part.look], self._source) for part in figure.parts]
        return Articulated(figure, motion, paints)


class Cutouts:
    """Objects of a folder of cut-outs."""

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig) -> None:
        self._rng, self._all = rng, cutouts(config.cutouts)
        self._target = self._any()

    def fit(self, half: Array) -> Array:
        """Half its width and height: as large as was drawn, nearly as wide over high as the cut-out is."""
        drawn = np.log(half[0] / half[1])
        aspect = np.log(self._target.aspect) + 0.25 * drawn
        return np.sqrt(half.prod()) * np.exp(0.5 * aspect * np.array([1, -1]))

    def target(self, motion: Motion) -> Sprite:
        """The target itself."""
        return self._sprite(self._target, motion, 0.1)

    def alike(self, motion: Motion, same_shape: bool) -> Sprite:
        """The same cut-out, or another in its place."""
        return self._sprite(self._target if same_shape else self._any(), motion, 0.1)

    def other(self, motion: Motion) -> Sprite:
        """Anything."""
        return self._sprite(self._any(), motion, 0.2)

    def _any(self) -> Cutout:
        return self._all[self._rng.integers(len(self._all))]

    def _sprite(self, cutout: Cutout, motion: Motion, strength: float) -> Sprite:
        # As large as the motion says, which is the target's; as wide over high as itself.
        half = motion.half * np.sqrt(cutout.aspect / self._target.aspect) ** np.array([1, -1])
        return Sprite(cutout, motion._replace(half=half), cutout_painter(self._rng, cutout, strength))


def random_objects(rng: np.random.Generator, config: SyntheticConfig, source: Source) -> Painted | Figures | Cutouts:
    """What makes the objects of one sequence, by the probabilities of its configuration."""
    if config.cutout and rng.random() < config.cutout:
        return Cutouts(rng, config)
    if config.articulated and rng.random() < config.articulated:
        return Figures(rng, source)
    return Painted(rng, source)
