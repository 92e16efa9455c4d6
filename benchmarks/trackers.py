"""Trackers side by side: ``python -m benchmarks.trackers SEQUENCES --weights FILE --nano BACKBONE HEAD --vit NET``.

Every tracker follows every sequence, a folder of frames with groundtruth.txt, from its first box, in turn in one
process on one thread. OpenCV's are those that the installed OpenCV has; weights are given by path. Where a tracker
says that it has lost the target, it scores 0: it gave no box.
"""

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import machine, record
from grm.boxes import Boxes
from grm.crop import Image
from grm.data import VideoSequence
from grm.data.readers.folder import folder
from grm.errors import DataError
from grm.evaluation.failures import lost_at
from grm.evaluation.runner import FrameTracker, overlaps, track_sequence
from grm.model import load_model
from grm.tracking import Tracker
from grm.weights import find_weights

#: A success is a frame whose overlap is above this.
SUCCESS = 0.5


class Said(NamedTuple):
    """What a tracker says of a frame."""

    #: (4,) NaN where it says that it has none.
    box: Boxes


class Unmoved:
    """The first box, never moved."""

    def initialize(self, frame: Image, box: Boxes) -> None:
        """Shows it its target."""
        self._box = box

    def track(self, frame: Image) -> Said:
        """Says where the target is in the next frame."""
        return Said(self._box)


class OpenCV:
    """One of OpenCV's trackers, made anew for every sequence."""

    def __init__(self, make: Callable[[], "cv2.Tracker"]) -> None:
        self._make = make
        make()  # weights that cannot be read are told at once

    def initialize(self, frame: Image, box: Boxes) -> None:
        """Shows it its target."""
        self._tracker = self._make()
        self._tracker.init(_bgr(frame), tuple(round(n) for n in box))

    def track(self, frame: Image) -> Said:
        """Says where the target is in the next frame."""
        found, box = self._tracker.update(_bgr(frame))
        return Said(np.array(box, dtype=np.float64) if found else np.full(4, np.nan))


class Followed(NamedTuple):
    """A sequence as a tracker followed it."""

    #: Overlap with the truth in the frames after the first; NaN where there is no truth.
    overlap: NDArray[np.float64]
    #: Seconds of each of those frames, its reading not counted.
    seconds: NDArray[np.float64]


def follow(tracker: FrameTracker, sequence: VideoSequence) -> Followed:
    """Follows a sequence from its first box; a box that is not given overlaps nothing."""
    trajectory = track_sequence(tracker, sequence)
    overlap = overlaps(np.nan_to_num(trajectory.boxes), sequence)
    return Followed(overlap[1:], trajectory.seconds[1:])


def summarize(followed: dict[str, Followed]) -> dict:
    """The record of a tracker, by the name of the sequence: means over sequences, and the median time of a frame."""
    rows = {
        name: {
            "ao": float(np.nanmean(overlap)),
            "sr50": float((overlap[np.isfinite(overlap)] > SUCCESS).mean()),
            "iou_1": float(overlap[np.isfinite(overlap)][0]),
            "lost": lost_at(overlap) is not None,
        }
        for name, (overlap, _) in followed.items()
    }
    means = {key: float(np.mean([row[key] for row in rows.values()])) for key in ("ao", "sr50", "iou_1")}
    seconds = np.concatenate([sequence.seconds for sequence in followed.values()])
    return {
        **means,
        "lost": sum(row["lost"] for row in rows.values()),
        "milliseconds": 1e3 * float(np.median(seconds)),
        "sequences": rows,
    }


def opencv_trackers(nano: list[Path] | None, vit: Path | None) -> tuple[dict[str, FrameTracker], list[str]]:
    """OpenCV's trackers by name, and a line for each that cannot be had.

    Args:
        nano: TrackerNano's backbone and head; None: left out.
        vit: TrackerVit's network; None: left out.

    """
    found, absent = {}, []
    for name in ("CSRT", "KCF", "MIL"):
        # OpenCV 5 has those of opencv-contrib among its older ones.
        places = (cv2, getattr(cv2, "legacy", None))
        make = next((f for place in places if (f := getattr(place, f"Tracker{name}_create", None))), None)
        if make is None:
            absent.append(f"{name}: this OpenCV ({cv2.__version__}) has none; opencv-contrib-python may")
        else:
            found[name] = OpenCV(make)
    if vit is None:
        absent.append("TrackerVit: give its weights: --vit FILE")
    else:
        parameters = cv2.TrackerVit_Params()
        parameters.net = str(vit)
        found["TrackerVit"] = OpenCV(lambda: cv2.TrackerVit_create(parameters))
    if nano is None:
        absent.append("TrackerNano: give its weights: --nano BACKBONE HEAD")
    else:
        parameters_nano = cv2.TrackerNano_Params()
        parameters_nano.backbone, parameters_nano.neckhead = map(str, nano)
        found["TrackerNano"] = OpenCV(lambda: cv2.TrackerNano_create(parameters_nano))
    return found, absent


def run(root: Path, trackers: dict[str, FrameTracker]) -> dict:
    """Has every tracker follow every sequence, sequence by sequence in turn, and returns the record.

    Raises:
        DataError: there is no sequence.

    """
    sequences = list(folder(root, "all", None))
    if not sequences:
        raise DataError(f"{root}: neither groundtruth.txt nor a folder that has one")
    followed: dict[str, dict[str, Followed]] = {name: {} for name in trackers}
    for sequence in sequences:
        for name, tracker in trackers.items():
            followed[name][sequence.name] = follow(tracker, sequence)
    return {
        "kind": "trackers",
        "date": date.today().isoformat(),
        "machine": machine.describe() | {"opencv": cv2.__version__},
        "trackers": {name: summarize(followed[name]) for name in trackers},
    }


def main() -> None:
    """Measures, prints the table and writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trackers", description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path, help="a folder of frames with groundtruth.txt, or of such folders")
    parser.add_argument("--weights", type=find_weights, nargs="*", default=[], help="files of ours, or names")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--nano", type=Path, nargs=2, metavar=("BACKBONE", "HEAD"), help="weights of TrackerNano")
    parser.add_argument("--vit", type=Path, metavar="NET", help="weights of TrackerVit")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    dtype = getattr(torch, options.dtype)
    ours = {path.stem: Tracker(load_model(path), dtype=dtype) for path in options.weights}
    theirs, absent = opencv_trackers(options.nano, options.vit)
    for line in absent:
        print(f"left out: {line}")
    measured = run(options.sequences, {**ours, **theirs, "first box, never moved": Unmoved()})
    measured["dtype"] = options.dtype
    measured["weights"] = {path.stem: record.file_hash(path) for path in options.weights}
    path = options.output / "trackers.json"
    record.finish(measured, path)


def _bgr(frame: Image) -> Image:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)


if __name__ == "__main__":
    main()
