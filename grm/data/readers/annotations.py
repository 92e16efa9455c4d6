"""Annotation files: numbers in text, in the separators that data sets use."""

from collections.abc import Collection, Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...boxes import Boxes, can_be
from ...errors import DataError

# What data sets put between numbers, besides white space.
_SEPARATORS = str.maketrans(",;", "  ")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the spaces around them.

    Raises:
        DataError: it cannot be read, or is not text.

    """
    return [line for line in map(str.strip, _read_text(path).splitlines()) if line]


def check_named(root: Path, names: Collection[str], known: Container[str], what: str = "sequence") -> None:
    """Raises a DataError if some of the sequences that a list names are not among those known."""
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"{root}: no {what} {unknown[0]!r} ({len(unknown)} of {len(names)} named)")


def list_texts(folder: Path) -> list[str]:
    """Names of the text files of a folder without `.txt`, sorted. Hidden files, as macOS leaves them, are none.

    Raises:
        DataError: there is no such folder.

    """
    try:
        return sorted(path.stem for path in folder.iterdir() if path.suffix == ".txt" and path.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None


def read_boxes(path: Path) -> Boxes:
    """Boxes, one a line: x, y, width, height, or a polygon's corners x, y, x, y, ..., of which the box is taken.

    Numbers are separated by commas, semicolons, tabs or spaces.

    Returns:
        (N, 4), N at least 1; NaN in the rows of boxes that are NaN, farther than any pixel, or without an area.

    Raises:
        DataError: a line is not four numbers or a polygon (an empty one before the last would move the boxes after it
            to other frames), lines differ in length, or there is none.

    """
    lines = _read_text(path).rstrip().splitlines()
    if not lines:
        raise DataError(f"{path}: holds no box")
    return _parse_boxes(path, lines)


def read_box(path: Path, number: int) -> Boxes:
    """(4,): the box of one line of such a file, the first being 0; NaN if it is none. Other lines may be anything.

    Raises:
        DataError: the line is not there, or is not four numbers or a polygon.

    """
    lines = _read_text(path).rstrip().splitlines()
    if number >= len(lines):
        raise DataError(f"{path}: expected a box in line {number + 1}, got {len(lines)} lines")
    return _parse_boxes(path, lines[number : number + 1])[0]


def _parse_boxes(path: Path, lines: list[str]) -> Boxes:
    rows = [line.translate(_SEPARATORS).split() for line in lines]
    numbers = len(rows[0])
    polygons = numbers >= 6 and numbers % 2 == 0
    if wrong := [line for line, row in zip(lines, rows, strict=True) if len(row) != (numbers if polygons else 4)]:
        raise DataError(f"{path}: expected x, y, width, height in every line, got {wrong[0]!r}")
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    boxes = _around(table.reshape(len(table), -1, 2)) if polygons else table
    boxes[~can_be(boxes)] = np.nan
    return boxes


def read_integers(path: Path, count: int) -> NDArray[np.int64]:
    """One whole number a frame, separated by commas or white space.

    Args:
        path: of the file.
        count: how many are expected.

    Raises:
        DataError: it cannot be read, holds something else, or not so many.

    """
    words = " ".join(read_lines(path)).translate(_SEPARATORS).split()
    try:
        numbers = np.array(words, dtype=np.int64)
    except (OverflowError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if len(numbers) != count:
        raise DataError(f"{path}: expected a number for each of {count} frames, got {len(numbers)}")
    return numbers


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file") from None


def _around(polygons: NDArray[np.float64]) -> Boxes:
    """(N, 4) the upright boxes around polygons (N, corners, 2)."""
    low, high = polygons.min(axis=1), polygons.max(axis=1)
    return np.concatenate([low, high - low], axis=-1)


def pad_boxes(boxes: Boxes, count: int) -> Boxes:
    """(count, 4): rows of NaN after those given; for test splits, which give the first box only."""
    return np.concatenate([boxes, np.full((count - len(boxes), 4), np.nan)])
