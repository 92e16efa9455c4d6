"""What synthetic objects and backgrounds look like: textures put together, coloured and shaded."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ...crop import Image
from ..augmentation import random_colors
from .cutout import Cutout
from .motion import Array
from .shapes import ANGLES, Outline, random_outline
from .sprite import Motion, Sprite
from .textures import BANK, SIDE, photographs, texture

#: Side of an object's own texture in pixels; width and height of a background, and number of them in a bank.
OBJECT_SIDE = 80
SCENE_WIDTH, SCENE_HEIGHT = 480, 400
SCENES = 64


class Source(NamedTuple):
    """Where textures come from."""

    #: Number of the bank; held-out sequences have one of their own.
    bank: int
    photographs: Path | None

    def texture(self, number: int) -> Image:
        """One of its textures, (SIDE, SIDE, 3)."""
        return texture(self.bank, number, self.photographs)


class Look(NamedTuple):
    """What objects of a kind have in common."""

    #: The texture all over, and that of a part.
    main: int
    part: int
    #: Form of the part: 0 none, 1 half of it, 2 a band, 3 a disc.
    form: int
    #: (3, 4) from the textures' colours to the object's.
    colors: Array
    #: Share of the texture's side that is seen; around which place, in shares of the side; how far it is turned.
    zoom: float
    place: Array
    turn: float


def random_look(rng: np.random.Generator) -> Look:
    """The look of anything."""
    main, part, form = (int(n) for n in rng.integers((0, 0, 0), (BANK, BANK, 4)))
    zoom, place, turn = rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.75, 2), rng.uniform(-np.pi, np.pi)
    return Look(main, part, form, random_colors(rng, 0.15), zoom, place, turn)


def similar_look(rng: np.random.Generator, look: Look) -> Look:
    """The look of another of the same kind: nearly the same pieces of textures in nearly the same colours."""
    return look._replace(
        form=look.form if rng.random() < 0.7 else int(rng.integers(4)),
        colors=look.colors + random_colors(rng, 0.06) - np.eye(3, 4),
        zoom=look.zoom * rng.uniform(0.8, 1.25),
        place=look.place + 0.08 * rng.standard_normal(2),
        turn=look.turn + 0.4 * rng.standard_normal(),
    )


def painter(rng: np.random.Generator, look: Look, source: Source) -> Callable[[], Image]:
    """What paints one object when it is called: see `_paint`. The object is decided now."""
    return partial(_paint, int(rng.integers(2**63)), look, source)


def _paint(seed: int, look: Look, source: Source) -> Image:
    """The texture of one object: (OBJECT_SIDE, OBJECT_SIDE, 3). Where its part is, and its marks, are its own."""
    rng, side = np.random.default_rng(seed), OBJECT_SIDE
    image = _piece(source.texture(look.main), look)
    if look.form:
        other = _piece(source.texture(look.part), look)
        x, y = (int(n) for n in rng.integers(side // 4, 3 * side // 4, 2))
        area = np.zeros((side, side), dtype=np.uint8)
        if look.form == 1:
            area[y:] = 255
        elif look.form == 2:
            area[:, x - side // 10 : x + side // 10] = 255
        else:
            cv2.circle(area, (x, y), side // 5, 255, cv2.FILLED)
        cv2.copyTo(other, area, image)
    for x, y, radius, kind in rng.integers((20, 20, 3, 0), (side - 20, side - 20, 9, 3), (int(rng.integers(4)), 4)):
        color = rng.integers(0, 256, 3).tolist()
        if kind == 0:
            cv2.circle(image, (int(x), int(y)), int(radius), color, cv2.FILLED, cv2.LINE_AA)
        elif kind == 1:
            cv2.line(image, (int(x), int(y)), (int(y), int(x)), color, int(radius) // 2, cv2.LINE_AA)
        else:
            letter = chr(ord("A") + int(rng.integers(26)))
            cv2.putText(image, letter, (int(x) - 8, int(y) + 8), cv2.FONT_HERSHEY_DUPLEX, radius / 6, color, 2)
    image = cv2.transform(image, look.colors)
    return cv2.multiply(image, _shading(int(rng.integers(_SHADINGS))), scale=1 / 200)


def cutout_painter(rng: np.random.Generator, cutout: Cutout, strength: float) -> Callable[[], Image]:
    """What paints a cut-out in its own colours, or mixed ones."""
    return partial(cv2.transform, cutout.texture, random_colors(rng, strength))


def photograph_scene(rng: np.random.Generator, source: Source) -> Image:
    """A part of a photograph as a background, in the format of `scene`."""
    pictures = photographs(source.photographs)
    picture = pictures[rng.integers(len(pictures))]
    height, width = picture.shape[:2]
    # The largest part of the background's shape, or a smaller one.
    part = rng.uniform(0.6, 1) * min(width / SCENE_WIDTH, height / SCENE_HEIGHT) * np.array([SCENE_WIDTH, SCENE_HEIGHT])
    x, y = (rng.uniform(0, (width, height) - part)).astype(int)
    seen = picture[y : y + max(1, int(part[1])), x : x + max(1, int(part[0]))]
    return cv2.cvtColor(cv2.resize(seen, (SCENE_WIDTH, SCENE_HEIGHT)), cv2.COLOR_RGB2RGBA)


@lru_cache(maxsize=SCENES)
def scene(source: Source, number: int) -> Image:
    """Background `number`: a texture under many objects. Not to be written to.

    Returns:
        (SCENE_HEIGHT, SCENE_WIDTH, 4), the last channel of no meaning: OpenCV warps four channels faster than three.

    """
    rng = np.random.default_rng([source.bank, BANK + number])
    size = (SCENE_WIDTH, SCENE_HEIGHT)
    # A texture drawn large, and another in its own size over it: enlarged alone, it would be smoother than the objects.
    layers = [
        cv2.warpAffine(
            source.texture(int(rng.integers(BANK))),
            _affine(scale, rng.uniform(-np.pi, np.pi), rng.uniform(0.25, 0.75, 2), size),
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        for scale in (SIDE / SCENE_WIDTH * rng.uniform(0.4, 1.2), rng.uniform(0.7, 1.6))
    ]
    share = rng.uniform(0, 0.5)
    image = cv2.addWeighted(layers[0], 1 - share, layers[1], share, 0)
    image = cv2.transform(image, random_colors(rng, 0.1))
    largest = rng.uniform(20, 90)
    for _ in range(int(rng.integers(8, 50))):
        half = largest * rng.uniform(0.15, 1) * np.exp(rng.uniform(-0.7, 0.7) * np.array([1, -1]))
        still = Motion(
            center=rng.uniform((0, 0), size)[None],
            angle=rng.uniform(-np.pi, np.pi, 1),
            half=half[None],
            phase=rng.uniform(0, 2 * np.pi, (1, 2)),
            bend=rng.uniform(0, 0.2, 2),
            waves=rng.uniform(1, 3, 2),
        )
        Sprite(Outline(random_outline(rng)), still, painter(rng, random_look(rng), source)).draw(image, 0)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    image.flags.writeable = False
    return image


def _piece(whole: Image, look: Look) -> Image:
    size = (OBJECT_SIDE, OBJECT_SIDE)
    matrix = _affine(SIDE / OBJECT_SIDE * look.zoom, look.turn, look.place, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(whole, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)


def _affine(scale: float, turn: float, place: Array, size: tuple[int, int]) -> Array:
    """(2, 3) from the pixels of an image of `size` to a texture's, with the image's middle at `place`."""
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([matrix, SIDE * place - matrix @ (np.array(size) / 2)])


_SHADINGS = 8


@lru_cache(maxsize=_SHADINGS)
def _shading(number: int) -> NDArray[np.uint8]:
    """(OBJECT_SIDE, OBJECT_SIDE, 3) light from one of some sides on something round; 200 leaves a colour as it is."""
    angle = ANGLES[number * len(ANGLES) // _SHADINGS]
    y, x = np.mgrid[-1 : 1 : OBJECT_SIDE * 1j, -1 : 1 : OBJECT_SIDE * 1j]
    distance = (x - 0.4 * np.cos(angle)) ** 2 + (y - 0.4 * np.sin(angle)) ** 2
    return np.repeat((225 - 70 * distance).clip(90, 255).astype(np.uint8)[..., None], 3, axis=-1)
