"""Sheets: pictures of many tiles, with the token division of several frames and layers (the paper's Figure 3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grm_kernels import Category

from .boxes import Boxes
from .crop import CropRegion, Image
from .drawing import COLORS, darken_separate, literal_text, save_figure, show_region
from .errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of the tracked box, of the true one, and of the search region, RGB.
TRACKED, TRUE, REGION = COLORS[0], (60, 255, 120), (255, 255, 255)
# Pixels that a region has in a tile, however few it has in the video; inches of a tile.
_SIDE, _INCHES = 320, 2.0
# Inches above a tile for its caption, and more above the first row of a band, which has a title.
_CAPTION, _TITLE = 0.22, 0.27
_PER_ROW = 6


#: A box (4,) and its colour.
ColoredBox = tuple[Boxes, tuple[int, int, int]]


class Tile(NamedTuple):
    """One picture of a sheet, with boxes drawn over it, in its pixels; those that are NaN are not."""

    image: Image
    caption: str = ""
    boxes: Sequence[ColoredBox] = ()


class Band(NamedTuple):
    """Rows of tiles under a title; None leaves a place empty."""

    title: str
    rows: Sequence[Sequence[Tile | None]]


class Shot(NamedTuple):
    """A frame in which a target was searched for."""

    frame: Image
    region: CropRegion
    #: (layers, F, F), values of `grm_kernels.Category`.
    division: NDArray[np.uint8]
    #: (4,) in pixels of the frame, NaN where they are not known.
    tracked: Boxes
    true: Boxes
    #: Of the tracked box; NaN where it is not known.
    score: float = float("nan")


def most_divided(shots: Sequence[Shot], layers: Sequence[int], count: int) -> list[int]:
    """So many of some layers, in their order: those whose tokens are nearest to being half in S, over all shots."""
    shares = {layer: [float((shot.division[layer - 1] == Category.S).mean()) for shot in shots] for layer in layers}
    mixed = {layer: sum(share * (1 - share) for share in of) for layer, of in shares.items()}
    return sorted(sorted(layers, key=lambda layer: -mixed[layer])[:count])


def frame_tile(shot: Shot, caption: str) -> Tile:
    """The whole frame, with the search region and the boxes that are known."""
    square = np.array([shot.region.left, shot.region.top, shot.region.side, shot.region.side], dtype=np.float64)
    return Tile(shot.frame, caption, [(square, REGION), (shot.tracked, TRACKED), (shot.true, TRUE)])


def region_tile(frame: Image, region: CropRegion, caption: str, *boxes: ColoredBox) -> Tile:
    """A part of a frame, enlarged, with boxes of the frame."""
    origin, scale = np.array([region.left, region.top, 0, 0]), _SIDE / region.side
    return Tile(show_region(frame, region, _SIDE), caption, [((box - origin) * scale, color) for box, color in boxes])


def search_tile(shot: Shot, caption: str) -> Tile:
    """The search region, with the boxes that are known."""
    return region_tile(shot.frame, shot.region, caption, (shot.tracked, TRACKED), (shot.true, TRUE))


def layer_tile(shot: Shot, layer: int) -> Tile:
    """The search region as a layer divides it, S dark, with the true box. Layers are counted from 1."""
    categories = shot.division[layer - 1]
    tile = region_tile(shot.frame, shot.region, f"layer {layer}: {_shares(categories)}", (shot.true, TRUE))
    return tile._replace(image=darken_separate(tile.image, categories))


def division_band(shot: Shot, title: str, layers: Sequence[int]) -> Band:
    """A frame, its search region, and that as chosen layers divide it, in as many rows as it takes."""
    tiles = [layer_tile(shot, layer) for layer in layers]
    first = [frame_tile(shot, "frame"), search_tile(shot, "search region")]
    width = _PER_ROW - len(first)
    parts = [tiles[start : start + width] for start in range(0, len(tiles), width)] or [[]]
    return Band(title, [[*(first if i == 0 else (None, None)), *part] for i, part in enumerate(parts)])


@literal_text()
def save_sheet(path: str | Path, bands: Sequence[Band], title: str) -> None:
    """Writes a picture (.png, .pdf, .svg) of bands of tiles, with what their colours mean at its foot."""
    from matplotlib.figure import Figure  # half a second to import
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = max(len(row) for band in bands for row in band.rows)
    rows = sum(len(band.rows) for band in bands)
    legend_columns, foot = (5, 0.35) if columns > 3 else (3, 0.55)  # in one row it is as wide as four tiles
    pad, head = 0.06, 0.4
    width = columns * (_INCHES + pad) + pad
    height = head + foot + rows * (_INCHES + _CAPTION + pad) + len(bands) * _TITLE
    figure = Figure(figsize=(width, height))
    figure.text(pad / width, 1 - 0.13 / height, printable(title), fontsize=12, va="top")
    top = head
    for band in bands:
        figure.text(pad / width, 1 - (top + 0.1) / height, printable(band.title), fontsize=11, weight="bold", va="top")
        top += _TITLE
        for row in band.rows:
            for column, tile in enumerate(row):
                if tile is not None:
                    left, bottom = pad + column * (_INCHES + pad), height - top - _CAPTION - _INCHES
                    ax = figure.add_axes((left / width, bottom / height, _INCHES / width, _INCHES / height))
                    _show(ax, tile)
            top += _INCHES + _CAPTION + pad
    lines = [(TRACKED, "tracked"), (TRUE, "true box"), (REGION, "search region")]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_color(color), lw=2.5, label=label, path_effects=_outlined()) for color, label in lines
    ]
    blue, light = show_region(np.zeros((1, 1, 3), np.uint8), CropRegion(9, 9, 2), 64)[0, [0, -1]].tolist()
    handles.append(Patch(facecolor=_color(light), edgecolor=_color(blue), hatch="////", label="outside of the frame"))
    handles.append(Patch(facecolor="0.3", label="S: kept away from the template"))
    figure.legend(handles=handles, loc="lower left", ncols=legend_columns, fontsize=9, frameon=False, borderaxespad=0.4)
    save_figure(figure, path, dpi=120)


def _show(ax: "Axes", tile: Tile) -> None:
    from matplotlib.patches import Rectangle

    height, width = tile.image.shape[:2]
    ax.imshow(tile.image, extent=(0, width, height, 0), interpolation="nearest" if width >= _SIDE else "bilinear")
    ax.set(xlim=(0, width), ylim=(height, 0), anchor="N")
    ax.axis("off")
    ax.set_title(tile.caption, fontsize=8.5, pad=2.5, loc="left")
    for (x, y, w, h), color in tile.boxes:
        if not np.isfinite((x, y, w, h)).all():
            continue
        thin = color == REGION
        ax.add_patch(
            Rectangle(
                (x, y), w, h, fill=False, edgecolor=_color(color), lw=0.8 if thin else 1.4, path_effects=_outlined(),
                linestyle=":" if thin else "-",
            )
        )  # fmt: skip


def _outlined() -> list:
    """A dark edge, so that a line is seen on whatever it lies."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2.8, foreground=(0, 0, 0, 0.55)), Normal()]


def _color(color: Sequence[int]) -> str:
    return "#" + bytes(color).hex()


def _shares(categories: NDArray[np.uint8]) -> str:
    shares = {category.name: float((categories == category).mean()) for category in Category}
    present = {name: share for name, share in shares.items() if share}
    if len(present) == 1:
        return f"all {next(iter(present))}"
    return ", ".join(f"{share:.0%} {name}" for name, share in present.items())
