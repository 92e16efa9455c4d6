"""Drawing: boxes and token divisions on frames of a video, and pictures of division and attention."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from grm_kernels import Category

from .boxes import Boxes
from .crop import CropRegion, Image, crop_image
from .files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours of targets, RGB; from the ninth on again from the first.
COLORS = (
    (255, 214, 10),
    (0, 200, 255),
    (255, 90, 95),
    (60, 220, 120),
    (200, 130, 255),
    (255, 150, 50),
    (130, 170, 255),
    (240, 120, 190),
)
# Of the brightness of a token that is kept away from the template.
_DARK = 0.3
_FARTHEST = 2**15 - 1
# Parts of a side with broken lines.
_DASHES = 7
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LABEL_HEIGHT = 18
# Sides of the tiles of a strip, in pixels.
_SMALLEST_TILE, _LARGEST_TILE = 96, 192
# Colours of what is outside of a frame, RGB.
_OUTSIDE = np.array([(58, 76, 130), (84, 106, 168)], dtype=np.uint8)


def draw_boxes(frame: Image, boxes: Boxes, labels: Sequence[str], dashed: Sequence[bool] | None = None) -> Image:
    """A copy of a frame with boxes and a label at each.

    Args:
        frame: (height, width, 3).
        boxes: (M, 4).
        labels: one for each box.
        dashed: which of them have broken lines; None: none.

    """
    drawn = frame.copy()
    thickness = max(2, round(max(frame.shape) / 480))
    size = max(0.4, max(frame.shape) / 1600)
    for i, ((x, y, width, height), label) in enumerate(zip(boxes, labels, strict=True)):
        color = COLORS[i % len(COLORS)]
        # Far outside of a frame as OpenCV can draw.
        x1, y1, x2, y2 = np.clip(np.round([x, y, x + width, y + height]), -_FARTHEST, _FARTHEST).astype(int).tolist()
        corner, opposite = (x1, y1), (x2, y2)
        if dashed is not None and dashed[i]:
            _dashed_rectangle(drawn, corner, opposite, color, thickness)
        else:
            cv2.rectangle(drawn, corner, opposite, color, thickness, cv2.LINE_AA)
        (_, text_height), _ = cv2.getTextSize(label, _FONT, size, 1)
        above = corner[1] - 4
        below = corner[1] + text_height + thickness + 4
        position = (max(3, corner[0]), above if above > text_height else below)
        cv2.putText(drawn, label, position, _FONT, size, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(drawn, label, position, _FONT, size, color, 1, cv2.LINE_AA)
    return drawn


def _dashed_rectangle(
    drawn: Image, corner: tuple[int, int], opposite: tuple[int, int], color: tuple[int, int, int], thickness: int
) -> None:
    """Each side in seven parts, every second one drawn, so that all corners are."""
    (x1, y1), (x2, y2) = corner, opposite
    for k in range(0, _DASHES, 2):
        (xa, xb), (ya, yb) = ([a + round(j * (b - a) / _DASHES) for j in (k, k + 1)] for a, b in ((x1, x2), (y1, y2)))
        for y in (y1, y2):
            cv2.line(drawn, (xa, y), (xb, y), color, thickness, cv2.LINE_AA)
        for x in (x1, x2):
            cv2.line(drawn, (x, ya), (x, yb), color, thickness, cv2.LINE_AA)


def darken_separate(crop: Image, division: NDArray[np.uint8]) -> Image:
    """A search crop with its S tokens, those kept away from the template, dark (the paper's Figure 3).

    Args:
        crop: (S, S, 3).
        division: (F, F), values of `grm_kernels.Category`.

    """
    bright = np.where(division == Category.S, _DARK, 1.0).astype(np.float32)
    bright = cv2.resize(bright, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return (crop * bright[..., None]).astype(np.uint8)


def show_region(frame: Image, region: CropRegion, size: int) -> Image:
    """A region of a frame, to be looked at: what lies outside of the frame is striped blue, not black.

    Args:
        frame: (height, width, 3).
        region: of the frame.
        size: of the result's side in pixels.

    Returns:
        (size, size, 3).

    """
    place = np.arange(size)
    inside = [
        (middle >= 0) & (middle < extent)
        for first, extent in ((region.top, frame.shape[0]), (region.left, frame.shape[1]))
        for middle in [first + (place + 0.5) * region.side / size]
    ]
    stripes = ((place[:, None] + place) // max(1, size // 32)) % 2
    return np.where(np.outer(*inside)[..., None], crop_image(frame, region, size), _OUTSIDE[stripes])


def division_strip(
    frame: Image, regions: Sequence[CropRegion], divisions: NDArray[np.uint8], layers: Sequence[int]
) -> Image:
    """The search regions of M targets as chosen layers divide them, target by target, as wide as the frame.

    Tiles have from 96 to 192 pixels, where the frame is that wide; layers that do not fit into a row go into the next.

    Args:
        frame: (height, width, 3).
        regions: of the M targets, in the frame.
        divisions: (M, layers, F, F).
        layers: to be shown, counted from 1.

    Returns:
        (strip height, width, 3).

    """
    width = frame.shape[1]
    columns = min(len(layers), max(1, width // _SMALLEST_TILE))
    side = min(width // columns, _LARGEST_TILE)
    rows = -(-len(layers) // columns)
    strip = np.zeros((len(regions) * rows * (side + _LABEL_HEIGHT), width, 3), dtype=np.uint8)
    for target, (region, division) in enumerate(zip(regions, divisions, strict=True)):
        shown = show_region(frame, region, side)
        for place, layer in enumerate(layers):
            row, column = divmod(place, columns)
            top = (target * rows + row) * (side + _LABEL_HEIGHT) + _LABEL_HEIGHT
            left = column * side
            strip[top : top + side, left : left + side] = darken_separate(shown, division[layer - 1])
            color = COLORS[target % len(COLORS)]
            cv2.putText(strip, f"layer {layer}", (left + 2, top - 5), _FONT, 0.4, color, 1, cv2.LINE_AA)
    return strip


def save_attention_picture(
    path: str | Path, template: Image, search: Image, attention: NDArray[np.floating], layers: Sequence[int]
) -> None:
    """Writes a picture (.png, .pdf, .svg) of what the template attends to in the search region.

    Args:
        path: of the picture.
        template: (T, T, 3) crop.
        search: (S, S, 3) crop.
        attention: (len(layers), F, F) as of `template_attention`.
        layers: counted from 1.

    """
    tiles = [(template, "template"), (search, "search region")]
    for number, heat in zip(layers, attention, strict=True):
        scaled = np.uint8(np.round(255 * heat / max(heat.max(), np.finfo(np.float32).tiny)))
        scaled = cv2.resize(scaled, search.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        colored = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        blended = cv2.addWeighted(search, 0.4, colored, 0.6, 0)
        tiles.append((blended, f"layer {number}: {heat.sum():.1%}"))
    title = "Attention of the template to the search region: its share of all, brightest where highest in the layer"
    _save_tiles(path, tiles, title)


@contextmanager
def literal_text() -> Iterator[None]:
    """A block in which matplotlib sets texts as they are: names of files may look like mathematics, or lack a glyph."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def save_figure(figure: "Figure", path: str | Path, *, dpi: int) -> None:
    """Writes a figure in the format of the path's suffix, in place of what is there or not at all.

    Raises:
        OSError: it cannot be written; the message names the path.

    """
    with replacing(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=dpi)


@literal_text()
def _save_tiles(path: str | Path, tiles: Sequence[tuple[Image, str]], title: str) -> None:
    from matplotlib.figure import Figure  # half a second to import

    columns = min(len(tiles), 5)
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.65 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes:
        ax.axis("off")
    for ax, (image, label) in zip(axes, tiles, strict=False):
        ax.imshow(image, interpolation="nearest")
        ax.set_title(label, fontsize=9)
    save_figure(figure, path, dpi=110)
