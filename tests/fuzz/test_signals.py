"""`grm track` stopped at any moment: what has its name is whole, and what has not is readable."""

import random
import signal
import subprocess
import sys
import time

import cv2
import pytest

from grm.media.frames import open_frames
from grm.model import save_weights

from ..grm.model.small import small_model
from ..grm.tracking.scenes import noise_frames

FRAMES = 300
TIMES = 100
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


def stopped(command, number, wait):
    """Starts a command, sends it a signal after waiting with it, and gives its status and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait(process)
        process.send_signal(number)
        error = ended(process)
    finally:
        process.kill()
    assert error is not None, f"still there 30 seconds after {number.name}"
    assert "Traceback" not in error, error
    return process.returncode, error


def ended(process):
    """What a process printed, when it has ended within 30 seconds; those in which all are held back do not count."""
    for _ in range(60):
        try:
            return process.communicate(timeout=0.5)[1]
        except subprocess.TimeoutExpired:
            pass
    return None


@pytest.mark.slow
def test_nothing_whole_is_replaced_by_a_part(tmp_path):
    frames, chance = tmp_path / "frames", random.Random(0)
    frames.mkdir()
    for index, frame in enumerate(noise_frames(6)):
        coded = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
        for repeat in range(FRAMES // 6):
            (frames / f"{6 * repeat + index}.png").write_bytes(coded)
    save_weights(small_model(), tmp_path / "small.safetensors")
    output, table = tmp_path / "out.mp4", tmp_path / "out.csv"
    command = [sys.executable, "-m", "grm", "track", frames, "--box", "40,30,20,13"]
    command += ["--weights", tmp_path / "small.safetensors", "--output", output, "--csv", table]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole, lasts = table.read_bytes(), time.monotonic() - start
    unfinished = tmp_path / "out.unfinished.mp4", tmp_path / "out.unfinished.csv"
    ends = []
    for _ in range(TIMES):
        output.write_bytes(b"before"), table.write_bytes(b"before")
        for path in unfinished:
            path.unlink(missing_ok=True)
        number = chance.choice(SIGNALS)
        after = chance.uniform(0.3, 1.1) * lasts
        status, error = stopped(command, number, lambda process, after=after: time.sleep(after))
        ends.append((number.name, status))
        if table.read_bytes() != b"before":  # the two get their names one after the other
            assert table.read_bytes() == whole
        if output.read_bytes() != b"before":
            assert len(list(open_frames(output))) == FRAMES
        if status == 1 and "stopped by you" in error:
            rows = unfinished[1].read_text().count("\n") - 1
            assert rows == (len(list(open_frames(unfinished[0]))) if unfinished[0].exists() else 0)
            assert output.read_bytes() == table.read_bytes() == b"before"
    assert sum(code not in (0,) for _, code in ends) > TIMES // 4, ends
