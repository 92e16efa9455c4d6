"""Textures of synthetic video: photographs that come with installed packages, and patterns made of random numbers.

They stand in a bank of numbered textures, each a pure function of its number, kept once made.
"""

import colorsys
import gzip
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...crop import Image
from ...errors import DataError, MediaError
from ...media.images import list_frames, read_image

#: Side of a texture in pixels, and number of textures in a bank.
SIDE = 192
BANK = 256
# A texture is a crop of a photograph with this probability.
_PHOTOGRAPH = 0.3
# More photographs than this are not read, and they are made no larger.
_MAX_PHOTOGRAPHS, _LARGEST = 1000, 512
# One smaller in either direction shows nothing.
_SMALLEST = 16
_LETTERS = "ABCDEFGHKLMNPRSTUVXYZ0123456789abdefghknrstz+*#&?"


@lru_cache(maxsize=2 * BANK)
def texture(bank: int, number: int, photographs_folder: Path | None = None) -> Image:
    """Texture `number` of a bank: (SIDE, SIDE, 3), not to be written to."""
    rng = np.random.default_rng([bank, number])
    if rng.random() < _PHOTOGRAPH:
        image = _of_photograph(rng, photographs(photographs_folder))
    else:
        image = _PATTERNS[rng.integers(len(_PATTERNS))](rng)
    image.flags.writeable = False
    return image


@lru_cache(maxsize=2)
def photographs(folder: Path | None = None) -> tuple[Image, ...]:
    """Pictures to cut textures from: matplotlib's samples, and those of a folder.

    Matplotlib brings one photograph, two drawings, a magnetic resonance image and two elevation maps, which are
    coloured as maps are.

    Raises:
        DataError: matplotlib is not installed, or the folder holds no images.

    """
    try:
        from matplotlib import colormaps
        from matplotlib.cbook import get_sample_data
    except ImportError:
        raise DataError(
            "synthetic video needs matplotlib's sample images: pip install 'grm-kernels[training]'"
        ) from None
    samples = Path(get_sample_data("grace_hopper.jpg", asfileobj=False)).parent
    pictures = [
        read_image(samples / name) for name in ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png", "logo2.png")
    ]
    with gzip.open(samples / "s1045.ima.gz") as file:
        brain = np.frombuffer(file.read(), np.uint16).reshape(256, 256).astype(np.float64)
    elevation = np.load(samples / "jacksboro_fault_dem.npz")["elevation"].astype(np.float64)
    ocean = np.load(samples / "topobathy.npz")["topo"].astype(np.float64)
    for values, name in ((brain, "bone"), (elevation, "gist_earth"), (ocean, "terrain")):
        low, high = np.percentile(values, (1, 99))
        pictures.append((colormaps[name](np.clip((values - low) / (high - low), 0, 1))[..., :3] * 255).astype(np.uint8))
    if folder is not None:
        pictures += _read_folder(folder)
    return tuple(_limited(picture) for picture in pictures)


def _read_folder(folder: Path) -> list[Image]:
    """The photographs of a folder; what cannot be read is left out, and named by `grm data check`."""
    found = []
    for name in list_frames(folder)[:_MAX_PHOTOGRAPHS]:
        with suppress(MediaError):
            found.append(read_image(folder / name))
    found = [picture for picture in found if min(picture.shape[:2]) >= _SMALLEST]
    if not found:
        raise DataError(f"{folder}: holds no photographs that can be read, of {_SMALLEST} pixels or more each way")
    return found


def palette(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB colours: near to each other in hue or not, dull or bright, of different lightness."""
    hue, spread, saturation = rng.random(), rng.choice([0.04, 0.15, 0.5]), rng.beta(1.2, 2.5)
    darkest = rng.uniform(0.05, 0.55)
    lightness = rng.permutation(np.linspace(darkest, min(1, darkest + rng.uniform(0.3, 0.8)), count))
    hues = hue + spread * rng.uniform(-1, 1, count)
    colors = [colorsys.hsv_to_rgb(h % 1, saturation, v) for h, v in zip(hues, lightness, strict=True)]
    return np.round(np.array(colors) * 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, cells: float, octaves: int) -> NDArray[np.float32]:
    """(SIDE, SIDE) from 0 to 1: random grids of `cells` cells a side, twice as many in each further octave."""
    total = np.zeros((SIDE, SIDE), dtype=np.float32)
    for octave in range(octaves):
        side = max(2, round(cells * 2**octave))
        grid = rng.random((min(side, SIDE), min(side, SIDE)), dtype=np.float32)
        total += cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return (total - total.min()) / (total.max() - total.min())


def _limited(picture: Image) -> Image:
    height, width = picture.shape[:2]
    scale = min(1.0, _LARGEST / max(height, width))
    size = [max(_SMALLEST, round(scale * side)) for side in (width, height)]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _of_photograph(rng: np.random.Generator, pictures: tuple[Image, ...]) -> Image:
    picture = pictures[rng.integers(len(pictures))]
    height, width = picture.shape[:2]
    side = int(rng.uniform(0.25, 0.9) * min(height, width))
    x, y = rng.integers(width - side + 1), rng.integers(height - side + 1)
    crop = cv2.resize(picture[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(crop, 1) if rng.random() < 0.5 else crop


def _colored(rng: np.random.Generator, values: NDArray[np.floating], steps: int | None = None) -> Image:
    """Colours for (SIDE, SIDE) numbers from 0 to 1, from a random palette: in steps, or running into each other."""
    colors = palette(rng, steps or int(rng.integers(2, 5))).astype(np.float32)
    places = np.linspace(0, len(colors) - 1, 256)
    table = colors[np.round(places).astype(int)] if steps else _between(colors, places)
    return np.clip(table, 0, 255).astype(np.uint8)[(np.clip(values, 0, 1) * 255).astype(np.uint8)]


def _between(colors: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.interp(places, np.arange(len(colors)), channel) for channel in colors.T], axis=-1)


def _across(rng: np.random.Generator, bend: float) -> NDArray[np.float32]:
    """(SIDE, SIDE) distance along a random direction, from about -1 to 1, bent by noise."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    return np.cos(angle) * x + np.sin(angle) * y + bend * (smooth_noise(rng, 3, 2) - 0.5)


def _clouds(rng: np.random.Generator) -> Image:
    return _colored(rng, smooth_noise(rng, rng.uniform(2, 8), 5))


def _camouflage(rng: np.random.Generator) -> Image:
    return _colored(rng, smooth_noise(rng, rng.uniform(4, 10), 2), steps=int(rng.integers(2, 5)))


def _stripes(rng: np.random.Generator) -> Image:
    wave = 0.5 + 0.5 * np.sin(_across(rng, rng.choice([0.0, 0.3, 1.0])) * rng.uniform(10, 40))
    return _colored(rng, wave, steps=2 if rng.random() < 0.5 else None)


def _checkers(rng: np.random.Generator) -> Image:
    """Checkers or plaid: two sets of stripes, either against each other or on each other."""
    bend, count = rng.choice([0.0, 0.0, 0.4]), rng.uniform(6, 24)
    a, b = np.sin(_across(rng, bend) * count) > 0, np.sin(_across(rng, bend) * count) > 0
    return _colored(rng, a ^ b if rng.random() < 0.5 else (a + 2.0 * b) / 3, steps=int(rng.integers(2, 4)))


def _gradient(rng: np.random.Generator) -> Image:
    return _colored(rng, 0.5 + 0.4 * _across(rng, 0.3) + 0.1 * (smooth_noise(rng, 40, 2) - 0.5))


def _cells(rng: np.random.Generator) -> Image:
    """The cells around random points: stones, scales, giraffes."""
    seeds = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    points = rng.integers(0, SIDE, (int(rng.integers(15, 90)), 2))
    seeds[points[:, 0], points[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.random(label.max() + 1, dtype=np.float32)[label]
    edge = distance / distance.max()
    return _colored(rng, np.clip(rng.choice([0.3, 0.7]) * shade + rng.choice([0.0, 0.5]) * edge, 0, 1))


def _fur(rng: np.random.Generator) -> Image:
    """Noise drawn out in one direction: hair, grass, wood."""
    length, angle = int(rng.integers(7, 30)) | 1, rng.uniform(0, 180)
    kernel = np.zeros((length, length), dtype=np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), angle, 1)
    drawn = cv2.filter2D(rng.random((SIDE, SIDE), dtype=np.float32), -1, cv2.warpAffine(kernel, turn, (length, length)))
    low, high = np.percentile(drawn, (2, 98))
    return _colored(rng, 0.7 * (drawn - low) / (high - low) + 0.3 * smooth_noise(rng, 4, 1))


def _text(rng: np.random.Generator) -> Image:
    colors = palette(rng, 3).tolist()
    image = np.full((SIDE, SIDE, 3), colors[0], dtype=np.uint8)
    size = rng.uniform(0.5, 2.0)
    for row in range(0, SIDE + 40, int(28 * size)):
        letters = "".join(rng.choice(list(_LETTERS), 24))
        thickness = int(rng.integers(1, 4))
        place = (int(rng.integers(-20, 1)), row)
        cv2.putText(image, letters, place, cv2.FONT_HERSHEY_SIMPLEX, size, colors[rng.integers(1, 3)], thickness)
    return image


def _confetti(rng: np.random.Generator) -> Image:
    """Discs, boxes and lines on each other."""
    colors = palette(rng, 6).tolist()
    image = np.full((SIDE, SIDE, 3), colors[0], dtype=np.uint8)
    largest = int(rng.integers(8, 40))
    for _ in range(int(rng.integers(30, 120))):
        x, y, radius, kind, color = (int(n) for n in rng.integers((0, 0, 3, 0, 1), (SIDE, SIDE, largest, 3, 6)))
        if kind == 0:
            cv2.circle(image, (x, y), radius, colors[color], cv2.FILLED, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(image, (x, y), (x + radius, y + 2 * radius), colors[color], cv2.FILLED)
        else:
            end = (x + int(rng.integers(-60, 60)), y + int(rng.integers(-60, 60)))
            cv2.line(image, (x, y), end, colors[color], 1 + radius // 6, cv2.LINE_AA)
    return image


_PATTERNS = (_clouds, _camouflage, _stripes, _checkers, _gradient, _cells, _fur, _text, _confetti)
