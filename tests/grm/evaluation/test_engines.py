"""Trackers of ours in the real toolkits of others, against the tracker itself."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from grm.evaluation.engines import Got10kTracker
from grm.media.images import read_image
from grm.tracking import Tracker

from ..data.trees import write_got10k
from ..tracking.scenes import brightness_model, square_video

ROOT = Path(__file__).parents[3]


def expected(frames, box):
    """Boxes and scores of the frames after the first."""
    tracker = Tracker(brightness_model())
    tracker.initialize(frames[0], box)
    return [tracker.track(frame)[:2] for frame in frames[1:]]


def test_an_experiment_of_got10k(tmp_path, monkeypatch):
    """The toolkit reads, runs and writes; what it writes are our boxes, to its four digits."""
    toolkit = pytest.importorskip("got10k.experiments", reason="the toolkit of GOT-10k is not installed")
    (name,) = write_got10k(tmp_path / "data", "val", count=6, sequences=1)
    for split in ("train", "test"):  # the toolkit looks for all of them
        write_got10k(tmp_path / "data", split, count=1, sequences=1)
    results = tmp_path / "results"
    experiment = toolkit.ExperimentGOT10k(
        str(tmp_path / "data"), subset="val", result_dir=str(results), report_dir=str(tmp_path / "reports")
    )
    experiment.run(Got10kTracker(Tracker(brightness_model()), "ours"))
    written = sorted(results.rglob(f"{name}_*.txt"))
    assert [path.name for path in written] == [f"{name}_001.txt", f"{name}_time.txt"]
    boxes = np.loadtxt(written[0], delimiter=",")
    folder = tmp_path / "data" / "val" / name
    frames = [read_image(path) for path in sorted(folder.glob("*.jpg"))]
    given = np.loadtxt(folder / "groundtruth.txt", delimiter=",")[0]
    assert boxes[0] == pytest.approx(given, abs=1e-3)
    assert boxes[1:] == pytest.approx(np.array([box for box, _ in expected(frames, given)]), abs=2e-3)
    assert (np.loadtxt(written[1]) > 0).all()


def test_images_of_pillow():
    """Its `init` and `update` take what the toolkit's own loop opens."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    frames, box = square_video([(60, 50), (63, 52)]), np.array([60.0, 50, 16, 16])
    tracker = Got10kTracker(Tracker(brightness_model()))
    tracker.init(image.fromarray(frames[0]), box)
    assert np.array_equal(tracker.update(image.fromarray(frames[1])), expected(frames, box)[0][0])


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_session_of_trax(tmp_path, kind):
    """The package's own client, against a process of ours: two targets, twice; boxes and scores are the tracker's."""
    trax = pytest.importorskip("trax", reason="vot-trax is not installed")
    from trax.client import Client

    frames = square_video([(60, 50), (63, 52), (66, 50)])
    boxes = np.array([[60.0, 50, 16, 16], [20, 20, 30, 20]])

    def sent(number):
        if kind == "memory":
            return {"color": trax.MemoryImage.create(frames[number])}
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), frames[number])
        return {"color": trax.FileImage.create(str(path))}

    command = [sys.executable, "-m", "tests.grm.evaluation.trax_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        pipes = (process.stdin.fileno(), process.stdout.fileno())
        client = Client(stream=pipes, log=lambda message: None)  # without a logger, 4.0.2 fails
        assert client.tracker_name == "brightness" and client.get("multiobject")
        assert client.region_formats == ["rectangle"]
        for _ in range(2):
            given = [(trax.Rectangle.create(*box), {}) for box in boxes]
            answer, _ = client.initialize(sent(0), given, {})
            assert [region.bounds() for region, _ in answer] == [tuple(box) for box in boxes]
            for number, (found, scores) in enumerate(expected(frames, boxes), start=1):
                answer, _ = client.frame(sent(number), {}, [])
                assert [region.bounds() for region, _ in answer] == [pytest.approx(tuple(b), abs=1e-3) for b in found]
                told = [float(properties.get("confidence")) for _, properties in answer]
                assert told == pytest.approx(scores.tolist(), abs=1e-5)
        client.quit()
        assert process.wait(30) == 0
