"""Results on disk: those of our own runs, and those of other trackers in the layouts of the usual toolkits.

A run of ours is a folder:

    run.json             what ran: benchmark, tracker, and a hash of all that decides the boxes
    NAME.txt             x,y,width,height of each frame of sequence NAME; the first is the one that was given
    scores/NAME.txt      the tracker's score of each frame; nan in the first
    times/NAME.txt       seconds of each frame
    finished/NAME.json   written last: the sequence is finished, by the run of this hash, with files of these digests
"""

import hashlib
import json
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..data import VideoSequence
from ..data.sequence import ImageSequence
from ..errors import DataError
from ..files import write_text
from .runner import Trajectory

#: Version of the layout of our own runs.
FORMAT = 1
RUN = "run.json"
_FINISHED, _BOXES, _SCORES, _TIMES = "finished", ".", "scores", "times"
# What toolkits write beside the boxes.
_NOT_BOXES = ("_time", "_times", "_score", "_scores", "_all_boxes", "_all_scores", "_confidence", "_iou")


class RunFolder:
    """The folder that a run of ours writes, sequence by sequence, and goes on in when it was interrupted.

    Args:
        folder: made if it is not there.
        identity: all that decides the boxes, as plain values; `grm.evaluation.identity.run_identity` gives it.
        about: more to keep in run.json, such as the root of the data set; it may change from one run to the next.

    Raises:
        DataError: the folder holds another run, or something else.

    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.hash = identity_hash(identity)
        _check_same_run(folder, self.identity)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"format": FORMAT, "hash": self.hash, "identity": self.identity, **(about or {})}
        # Before anything else, so that processes that start together know each other's folder.
        write_text(folder / RUN, json.dumps(values, indent=1) + "\n")
        for part in (_FINISHED, _SCORES, _TIMES):
            (folder / part).mkdir(exist_ok=True)

    def is_finished(self, sequence: VideoSequence) -> bool:
        """Whether this very run tracked this sequence to its end and nobody has touched its files since."""
        finished = _read_finished(self.folder, sequence.name)
        if finished is None or finished.get("run") != self.hash or finished.get("given") != _given(sequence):
            return False
        return [finished.get("frames"), *finished.get("files", [])] == _frames_of(sequence) and all(
            _digest_of_file(self.folder / part / f"{sequence.name}.txt") == finished["sha256"].get(part)
            for part in (_BOXES, _SCORES, _TIMES)
        )

    def write(self, sequence: VideoSequence, trajectory: Trajectory) -> None:
        """Writes the results of one sequence; it counts as finished when all of them are on the disk.

        Raises:
            DataError: the name of the sequence cannot be that of a file.
            OSError: they cannot be written.

        """
        check_name(sequence.name)
        texts = {
            _BOXES: table_text(trajectory.boxes, "%.4f"),
            _SCORES: table_text(trajectory.scores[:, None], "%.6f"),
            _TIMES: table_text(trajectory.seconds[:, None], "%.8f"),
        }
        for part, text in texts.items():
            write_text(self.folder / part / f"{sequence.name}.txt", text)
        values = {
            "run": self.hash,
            "frames": len(trajectory.boxes),
            "files": _frames_of(sequence)[1:],
            "given": _given(sequence),
            "tracked": len(trajectory.tracked_seconds),
            "seconds": float(trajectory.tracked_seconds.sum()),
            "sha256": {part: _digest(text.encode()) for part, text in texts.items()},
        }
        write_text(self.folder / _FINISHED / f"{sequence.name}.json", json.dumps(values) + "\n")


class Speed(NamedTuple):
    """How long a tracker took."""

    frames: int
    seconds: float


class Results:
    """The results of one tracker on one benchmark, read from disk as they are asked for.

    Args:
        folder: of a run of ours; or with NAME.txt for each sequence, as pytracking and the plain text results of papers
            have it; or with NAME/NAME_001.txt, as the toolkit of GOT-10k does. Columns are separated by commas, tabs,
            spaces or semicolons.
        label: names the tracker in tables; None: as run.json says, or else as the folder is called.

    Raises:
        DataError: it holds no results.

    """

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self.folder = folder
        #: What run.json says; None: results of another tool.
        self.run = _read_run(folder)
        known = self.run["tracker"] if self.run and "tracker" in self.run else folder.resolve().name
        self.label = label or str(known)
        try:
            entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
        #: The names of the files of boxes, by sequence.
        self._files: dict[str, list[Path]] = {}
        if self.run is not None:
            finished = sorted((folder / _FINISHED).glob("*.json"))
            self._files = {path.stem: [folder / f"{path.stem}.txt"] for path in finished}
        else:
            self._list_foreign(entries)
        if not self._files:
            raise DataError(f"{folder}: holds no results: expected NAME.txt or NAME/NAME_001.txt for each sequence")

    def _list_foreign(self, entries: list[str]) -> None:
        for name in entries:
            stem = name.removesuffix(".txt")
            if name.endswith(".txt") and not stem.endswith(_NOT_BOXES):
                self._files[stem] = [self.folder / name]
            elif repetitions := sorted((self.folder / name).glob(f"{escape(name)}_[0-9][0-9][0-9].txt")):
                self._files[name] = repetitions

    @property
    def names(self) -> list[str]:
        """Names of the sequences that there are results of."""
        return list(self._files)

    def find(self, name: str, prefix: str = "") -> str | None:
        """The name that a sequence has here: its own, or with the prefix that another tool puts before it."""
        return next((known for known in (name, f"{prefix}{name}") if known in self._files), None)

    def boxes(self, name: str) -> list[Boxes]:
        """(N, 4) x, y, width, height of each repetition, most often one.

        Raises:
            DataError: a file is missing, is not four numbers a line, or is not the one that our run wrote.

        """
        if self.run is None:
            return [_read_table(path) for path in self._files[name]]
        finished, path = _read_finished(self.folder, name) or {}, self._files[name][0]
        if finished.get("run") != self.run["hash"]:
            raise DataError(f"{path}: is not of the run that {self.folder / RUN} describes")
        if _digest_of_file(path) != finished["sha256"].get(_BOXES):
            raise DataError(f"{path}: is missing, or was changed since it was written")
        return [_read_table(path)]

    def boxes_of(self, name: str, true: Boxes) -> list[Boxes]:
        """As `boxes`, of a sequence with true boxes (N, 4).

        Raises:
            DataError: as of `boxes`; or our run was given another first box.

        """
        boxes = self.boxes(name)
        if self.run is not None and not np.allclose(boxes[0][0], true[0], rtol=0, atol=1e-3):
            raise DataError(f"{self.folder}: {name}: the results are of another video of that name")
        return boxes

    def first_boxes(self, name: str, true: Boxes) -> Boxes:
        """(N, 4) the boxes of the first repetition, of a sequence with true boxes (N, 4); later ones are left out.

        Raises:
            DataError: as of `boxes_of`; or there are fewer.

        """
        return self._cut(name, "boxes", self.boxes_of(name, true)[0], len(true))

    def scores(self, name: str, count: int) -> NDArray[np.float64] | None:
        """(count,) the tracker's score of each frame, NaN in the first; None: results of another tool.

        Raises:
            DataError: the file is missing or broken, or there are fewer.

        """
        if self.run is None:
            return None
        scores = _read_table(self.folder / _SCORES / f"{name}.txt", columns=1)[:, 0]
        return self._cut(name, "scores", scores, count)

    def _cut(self, name: str, what: str, values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        if len(values) < count:
            raise DataError(f"{self.folder}: {name}: {len(values)} {what} for {count} frames")
        return values[:count]

    def times(self, name: str) -> NDArray[np.float64] | None:
        """(N, repetitions) seconds of each frame; None where they are not known."""
        if self.run is not None:
            return _read_table(self.folder / _TIMES / f"{name}.txt", columns=1)
        path = self._files[name][0].with_name(f"{name}_time.txt")
        return _read_table(path, columns=None) if path.is_file() else None

    def speed(self, name: str) -> Speed | None:
        """How long the tracked frames took; None where that is not known."""
        if self.run is not None:
            finished = _read_finished(self.folder, name)
            if finished is None:
                return None
            return Speed(finished.get("tracked", finished["frames"] - 1), finished["seconds"])
        seconds = self.times(name)
        if seconds is None:
            return None
        # A failed or a first frame is written as nothing or less by some tools.
        seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
        return Speed(len(seconds), float(seconds.sum())) if len(seconds) else None


def identity_hash(identity: Mapping[str, Any]) -> str:
    """A hash of what decides the boxes: 64 hexadecimal digits."""
    return _digest(json.dumps(identity, sort_keys=True).encode())


def check_name(name: str) -> None:
    """Whether a sequence can be written to a file of its name.

    Raises:
        DataError: it cannot.

    """
    if not name or name.startswith(".") or {"/", "\\", "\0"} & set(name):
        raise DataError(f"sequence {name!r}: its name cannot be that of a file")


def read_run(folder: Path) -> dict[str, Any]:
    """What run.json of a run of ours says.

    Raises:
        DataError: it is not there or broken.

    """
    run = _read_run(folder)
    if run is None:
        raise DataError(f"{folder / RUN}: missing: not a run of grm evaluate")
    return run


def _check_same_run(folder: Path, identity: Mapping[str, Any]) -> None:
    known = _read_run(folder)
    if known is None and folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        # Another process may have begun since.
        known = _read_run(folder)
        if known is None:
            raise DataError(f"{folder}: expected an empty or new folder, or one with the results of this very run")
    if known is not None:
        if other := [key for key in known["identity"] | identity if known["identity"].get(key) != identity.get(key)]:
            raise DataError(f"{folder}: holds another run: {', '.join(other)} differ; give another folder")


def _read_run(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise DataError(f"{folder}: expected a folder of results") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or "identity" not in values:
        raise DataError(f"{path}: expected a run of format {FORMAT}")
    return values


def _read_finished(folder: Path, name: str) -> dict[str, Any] | None:
    try:
        values = json.loads((folder / _FINISHED / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("sha256"), dict) else None


def _given(sequence: VideoSequence) -> list[float]:
    return [round(float(value), 4) for value in sequence.boxes[0]]


def _frames_of(sequence: VideoSequence) -> list[Any]:
    """How many frames a sequence has, and the files of the first and the last one, if they are files."""
    count = len(sequence)
    if not isinstance(sequence, ImageSequence):
        return [count]
    return [count, sequence.path(0).name, sequence.path(count - 1).name]


def table_text(table: NDArray[np.float64], number: str) -> str:
    """Lines of numbers (N, columns) with commas between them, each in a format such as "%.3f"."""
    line = ",".join([number] * table.shape[1]) + "\n"
    return "".join(line % tuple(row) for row in table.tolist())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_file(path: Path) -> str | None:
    try:
        return _digest(path.read_bytes())
    except OSError:
        return None


def _read_table(path: Path, columns: int | None = 4) -> NDArray[np.float64]:
    """(N, columns) numbers; the number of columns is not looked at if it is None."""
    try:
        text = path.read_text(encoding="utf-8-sig").replace(";", ",")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file") from None
    lines = text.rstrip().splitlines()
    if not lines or not all(map(str.strip, lines)):
        raise DataError(f"{path}: holds {'an empty line' if lines else 'no numbers'}")
    try:
        table = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2, comments=None)
    except ValueError as error:
        raise DataError(f"{path}: expected {columns or 'some'} numbers in every line: {error}") from None
    if columns is not None and table.shape[1] != columns:
        raise DataError(f"{path}: expected {columns} numbers in every line, got {table.shape[1]}")
    return table
