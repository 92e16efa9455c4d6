"""Comparisons as tables: cells for a terminal, Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from .presence import presence_text
from .report import Comparison, Row, attribute_scores, largest_differences

#: Headings of figures; P and P_norm are read at 20 pixels and at 0.2 sides of the box.
HEADINGS = {"P_norm": "P norm", "SR50": "SR 0.5", "SR75": "SR 0.75"}


def title(comparison: Comparison) -> str:
    """What a table is of: benchmark, protocol, number of sequences."""
    count = len(comparison.names)
    of = str(count) if count == comparison.listed else f"{count} of {comparison.listed}"
    return f"{comparison.title}, {comparison.rule}, {of} sequence{'s' if comparison.listed > 1 else ''}"


def header(comparison: Comparison) -> list[str]:
    """Headings of the columns of `cells`."""
    figures = [HEADINGS.get(name, name) for name in comparison.figures]
    gap = [f"{comparison.figures[0]} - {comparison.rows[0].label}"] if len(comparison.rows) > 1 else []
    return ["tracker", *figures, *gap, "frames/s"]


def cells(comparison: Comparison) -> list[list[str]]:
    """A row for each tracker: figures in percent, failures as they are, the difference to the first with its error."""
    several = len(comparison.rows) > 1
    return [
        [
            row.label,
            *(_value_text(name, row.score.figures[name]) for name in comparison.figures),
            *([gap_text(row)] if several else []),
            "" if row.speed is None else f"{row.speed:.1f}",
        ]
        for row in comparison.rows
    ]


def _value_text(figure: str, value: float) -> str:
    return f"{value:.2f}" if figure == "failures" else f"{100 * value:.1f}"


def gap_text(row: Row) -> str:
    """The difference to the first tracker: "+0.5 ± 0.8 (noise)"."""
    if row.gap is None:
        return ""
    error = f"{100 * row.gap.error:.1f}" if row.gap.error == row.gap.error else "?"
    return f"{100 * row.gap.mean:+.1f} ± {error}" + (" (noise)" if row.gap.is_noise else "")


def attribute_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of the first figure by attribute."""
    headings = ["attribute", "sequences", *(row.label for row in comparison.rows)]
    figure = comparison.figures[0]
    rows = [
        [name, str(len(comparison.attributes[name])), *(f"{100 * score.figures[figure]:.1f}" for score in of)]
        for name, of in attribute_scores(comparison).items()
    ]
    return headings, rows


def sequence_cells(comparison: Comparison, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of the first figure by sequence.

    Args:
        comparison: of several trackers: the largest difference between the first and the last comes first.
        most: so many rows; None: all.

    """
    figure, rows = comparison.figures[0], comparison.rows
    gaps = largest_differences(comparison, rows[-1])
    if len(rows) == 1:
        # Of a single tracker the hardest sequences come first.
        gaps.sort(key=lambda gap: rows[0].sequences[gap[0]].figures[figure])
    table = []
    for number, gap in gaps[:most]:
        values = [f"{100 * row.sequences[number].figures[figure]:.1f}" for row in rows]
        table.append([comparison.names[number], *values, *([f"{100 * gap:+.1f}"] if len(rows) > 1 else [])])
    last = [f"{rows[-1].label} - {rows[0].label}"] if len(rows) > 1 else []
    return ["sequence", *(row.label for row in rows), *last], table


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All tables, by sequence excepted."""
    parts = []
    for comparison in comparisons:
        parts += [f"**{title(comparison)}**", markdown_table(header(comparison), cells(comparison))]
        if comparison.attributes:
            parts.append(markdown_table(*attribute_cells(comparison)))
        parts += notes(comparison)
    return "\n\n".join(parts) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """What is to be known of a table: what was left out, what its scores are worth, what noise means."""
    worth = [presence_text(row.label, row.presence) for row in comparison.rows if row.presence is not None]
    return [*comparison.notes, *worth, *([NOISE] if len(comparison.rows) > 1 else [])]


#: What the column of differences means.
NOISE = (
    "±: paired standard error over sequences; (noise): below what Student's t has for 95%, so that other sequences of "
    "the same kind might well turn the difference around."
)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose numbers are aligned to the right."""
    lines = [headings, ["---", *(["---:"] * (len(headings) - 1))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """A line for each figure of each tracker: of the benchmarks, and of their sequences. Figures are in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["benchmark", "protocol", "tracker", "sequence", "figure", "value"])
    for comparison in comparisons:
        for row in comparison.rows:
            start = [comparison.benchmark, comparison.rule, row.label]
            writer.writerows([*start, "", name, repr(value)] for name, value in row.score.figures.items())
            for score in row.sequences:
                writer.writerows([*start, score.name, name, repr(value)] for name, value in score.figures.items())
    return text.getvalue()


def json_values(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Everything that is known, figures in [0, 1], as values that JSON has."""
    return [
        {
            "benchmark": comparison.benchmark,
            "title": comparison.title,
            "protocol": comparison.rule,
            "sequences": comparison.names,
            "listed": comparison.listed,
            "notes": comparison.notes,
            "trackers": [_json_row(row) for row in comparison.rows],
            "attributes": {
                attribute: {row.label: score.figures for row, score in zip(comparison.rows, of, strict=True)}
                for attribute, of in attribute_scores(comparison).items()
            },
        }
        for comparison in comparisons
    ]


def _json_row(row: Row) -> dict[str, Any]:
    curves = {name: getattr(row.score, name) for name in ("success", "precision", "normalized")}
    gap = row.gap and {
        "mean": row.gap.mean,
        "standard_error": row.gap.error if row.gap.error == row.gap.error else None,
        "noise": row.gap.is_noise,
    }
    return {
        "label": row.label,
        "figures": row.score.figures,
        "frames_per_second": row.speed,
        "difference_to_first": gap,
        "score": row.presence and row.presence._asdict(),
        "curves": {name: values.tolist() for name, values in curves.items() if values is not None},
        "by_sequence": {score.name: score.figures for score in row.sequences},
    }
