"""Comparisons as one HTML page that holds everything: tables, plots, and frames where trackers differ most."""

import base64
import io
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from ..boxes import has_box, iou
from ..crop import Image
from ..drawing import COLORS, draw_boxes, literal_text
from .benchmarks import find_benchmark
from .metrics import NORMALIZED_THRESHOLDS, PRECISION_THRESHOLDS, SUCCESS_THRESHOLDS
from .rendering import attribute_cells, cells, header, notes, sequence_cells, title
from .report import Comparison, Row, largest_differences

_CURVES = {
    "success": ("Success", "overlap", SUCCESS_THRESHOLDS),
    "precision": ("Precision", "distance of the centres, pixels", PRECISION_THRESHOLDS),
    "normalized": ("Normalised precision", "distance of the centres, sides of the box", NORMALIZED_THRESHOLDS),
}
# So many trackers have a colour of their own in a plot, the best ones; the others are grey.
_COLORED = 10
# Frames are shown so wide at most, in pixels.
_WIDTH = 640
_QUALITY = 85
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.25em; border-bottom: 1px solid #ccc; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { background: #f5f5f5; }
.plots, .frames { display: flex; flex-wrap: wrap; gap: 1em; } .plots img { width: 24em; max-width: 100%; }
figure { margin: 0; } .frames img { max-width: 24em; } figcaption { font-size: .9em; color: #555; max-width: 24em; }
.scroll { max-height: 32em; max-width: 100%; overflow: auto; display: inline-block; }
.scroll th { position: sticky; top: 0; }
.note { color: #555; font-size: .92em; }
"""


def html_page(comparisons: Sequence[Comparison], frames: int = 0) -> str:
    """A page that needs no other file.

    Args:
        comparisons: one for each benchmark and protocol.
        frames: so many frames of each comparison are drawn: of the sequences where the last tracker differs most from
            the first one, where their overlaps differ most. Only the first comparison of each benchmark has them.

    Raises:
        DataError: a frame cannot be read.

    """
    parts, drawn = [], set()
    for comparison in comparisons:
        parts.append(f"<section><h2>{escape(title(comparison))}</h2>")
        parts.append(_table(header(comparison), cells(comparison)))
        parts += [f'<p class="note">{escape(note)}</p>' for note in notes(comparison)]
        parts.append('<div class="plots">' + "".join(_plots(comparison)) + "</div>")
        if comparison.attributes:
            parts.append("<h3>By attribute</h3>" + _table(*attribute_cells(comparison)))
        parts.append(f"<h3>{escape(comparison.figures[0])} by sequence</h3>")
        parts.append('<div class="scroll">' + _table(*sequence_cells(comparison)) + "</div>")
        if frames and comparison.benchmark not in drawn:
            drawn.add(comparison.benchmark)
            parts.append(
                f'<h3>Where they differ most</h3><div class="frames">{"".join(_frames(comparison, frames))}</div>'
            )
        parts.append("</section>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison of trackers</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head>\n<body><h1>Comparison of trackers</h1>\n{body}\n</body></html>\n"
    )


@literal_text()
def plot(comparison: Comparison, curve: str) -> str:
    """An SVG of the success, precision or normalised precision of all trackers by threshold.

    Args:
        comparison: what to plot.
        curve: "success", "precision" or "normalized".

    Raises:
        ValueError: the comparison has no such curve: GOT-10k has the success alone.

    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    name, unit, thresholds = _CURVES[curve]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    if getattr(comparison.rows[0].score, curve) is None:
        raise ValueError(f"{comparison.title} has no {name.lower()} curve")
    best = sorted(comparison.rows, key=lambda row: -_read(row, curve))
    for row in best[_COLORED:]:
        axes.plot(thresholds, getattr(row.score, curve), color="0.85", linewidth=0.8)
    for row in best[:_COLORED]:
        axes.plot(thresholds, getattr(row.score, curve), label=f"{row.label} [{100 * _read(row, curve):.1f}]")
    axes.set(xlabel=f"threshold: {unit}", ylabel="share of frames", title=f"{name}, {comparison.title}")
    axes.set(xlim=(0, thresholds[-1]), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left" if curve == "success" else "lower right", fontsize=8)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "grm"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _read(row: Row, curve: str) -> float:
    """The figure that is read from a curve."""
    figures = row.score.figures
    return figures[{"success": next(iter(figures)), "precision": "P", "normalized": "P_norm"}[curve]]


def _plots(comparison: Comparison) -> list[str]:
    there = [curve for curve in _CURVES if getattr(comparison.rows[0].score, curve) is not None]
    return [_embedded(plot(comparison, curve).encode(), "image/svg+xml", f"{curve} plot") for curve in there]


def _frames(comparison: Comparison, count: int) -> list[str]:
    """Frames with the true box and those of the first and the last tracker, where the two differ most."""
    rows = comparison.rows if len(comparison.rows) < 2 else [comparison.rows[0], comparison.rows[-1]]
    chosen = largest_differences(comparison, rows[-1])
    if len(rows) == 1:
        figure = comparison.figures[0]
        chosen.sort(key=lambda gap: rows[0].sequences[gap[0]].figures[figure])
    return [_frame(comparison, rows, number) for number, _ in chosen[:count]]


def _frame(comparison: Comparison, rows: Sequence[Row], number: int) -> str:
    sequence, name = comparison.open_sequence(number), comparison.names[number]
    prefix = find_benchmark(comparison.benchmark).prefix
    tracked = [row.results.boxes(row.results.find(name, prefix) or name)[0][: len(sequence)] for row in rows]
    seen = has_box(sequence.boxes) & sequence.visible
    overlaps = [np.where(seen, np.nan_to_num(iou(boxes, sequence.boxes)), 0) for boxes in tracked]
    gap = np.abs(overlaps[-1] - overlaps[0]) if len(rows) > 1 else 1 - overlaps[0]
    index = int(np.where(seen, gap, -1).argmax())
    boxes = np.stack([sequence.boxes[index], *(boxes[index] for boxes in tracked)])
    # A box that is not there is drawn nowhere, and the others keep their colours.
    frame = draw_boxes(sequence.frame(index), np.where(has_box(boxes)[:, None], boxes, -1e4), [""] * len(boxes))
    told = [f"{row.label} {100 * of[index]:.0f}" for row, of in zip(rows, overlaps, strict=True)]
    colors = ["#{:02x}{:02x}{:02x}".format(*COLORS[i]) for i in range(len(boxes))]
    texts = [f'<b style="color:{c}">&#9632;</b> {escape(t)}' for c, t in zip(colors, ["truth", *told], strict=True)]
    where = f"{name}, frame {index}"
    picture = _embedded(_jpeg(frame), "image/jpeg", f"{where}: overlap {', '.join(told)}")
    return f"<figure>{picture}<figcaption>{escape(where)}, overlap: {', '.join(texts)}</figcaption></figure>"


def _jpeg(frame: Image) -> bytes:
    scale = min(1.0, _WIDTH / frame.shape[1])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame
    encoded: NDArray[np.uint8] = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )[1]
    return encoded.tobytes()


def _embedded(content: bytes, kind: str, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
