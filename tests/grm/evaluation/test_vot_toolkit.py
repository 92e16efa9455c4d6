"""VOT's own toolkit on a data set of ours, with a tracker of ours behind TraX, against the tracker itself.

The toolkit is not among the packages for tests, as it brings more than all of them: GRM_VOT names a Python that has it,
and the test is skipped where neither that nor this one does.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from grm.tracking import Tracker

from ..tracking.scenes import brightness_model, square_video

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("GRM_VOT") or (sys.executable if importlib.util.find_spec("vot") else None)
FILES = {
    "config.yaml": "registry: [./trackers.ini]\nstack: ./stack.yaml\n",
    "stack.yaml": "title: ours\nexperiments:\n  once: {type: unsupervised, multiobject: true}\n",
    "trackers.ini": f"[ours]\nprotocol = trax\ncommand = {sys.executable} -m tests.grm.evaluation.trax_server\n"
    f"env_PYTHONPATH = {ROOT}\n",
    "sequences/list.txt": "one\ntwo\n",
}
FRAMES = square_video([(60, 50), (63, 52), (66, 50), (70, 51)])
#: The boxes given in each sequence, by the names of the files of truth.
GIVEN = {
    "one": {"groundtruth": (60, 50, 16, 16)},
    "two": {"groundtruth_a": (60, 50, 16, 16), "groundtruth_b": (20, 20, 30, 20)},
}


def write_workspace(folder):
    """One target in the first sequence, two in the second; nothing to download."""
    for name, given in GIVEN.items():
        sequence = folder / "sequences" / name
        (sequence / "color").mkdir(parents=True)
        for number, frame in enumerate(FRAMES, start=1):
            cv2.imwrite(str(sequence / "color" / f"{number:08d}.png"), frame)
        (sequence / "sequence").write_text(f"name={name}\nfps=30\nchannels.color=color/%08d.png\n")
        for truth, box in given.items():
            np.savetxt(sequence / f"{truth}.txt", np.tile(box, (len(FRAMES), 1)), delimiter=",", fmt="%d")
    for name, text in FILES.items():
        (folder / name).write_text(text)


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="vot-toolkit is not installed, and GRM_VOT names no Python that has it")
def test_an_experiment_of_vot(tmp_path):
    write_workspace(tmp_path)
    command = [PYTHON, "-m", "vot", "evaluate", "--workspace", str(tmp_path), "ours"]
    in_text = {**os.environ, "VOT_RESULTS_BINARY": "0"}
    run = subprocess.run(command, capture_output=True, text=True, env=in_text)
    assert run.returncode == 0 and "concluded" in run.stdout + run.stderr, run.stdout + run.stderr
    for name, given in GIVEN.items():
        tracker = Tracker(brightness_model())
        tracker.initialize(FRAMES[0], list(given.values()))
        tracks = [tracker.track(frame) for frame in FRAMES[1:]]
        for number, truth in enumerate(given):
            path = tmp_path / "results" / "ours" / "once" / name / truth.replace("groundtruth", name)
            first, *tracked = Path(f"{path}_001.txt").read_text().splitlines()
            assert first == "1"  # its mark of an initialisation
            expected = [track.box[number] for track in tracks]
            assert np.loadtxt(tracked, delimiter=",") == pytest.approx(np.array(expected), abs=1e-3)
            told = [float(line or "nan") for line in Path(f"{path}_001_confidence.value").read_text().splitlines()]
            assert told[1:] == pytest.approx([track.score[number] for track in tracks], abs=1e-5)
