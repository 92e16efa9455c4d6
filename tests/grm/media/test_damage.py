"""Videos that are damaged, and disks, processes and containers that fail a video that is written."""

import os
import random
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from grm.errors import DamagedError, MediaError
from grm.media.clock import FrameClock
from grm.media.frames import open_frames
from grm.media.writer import VideoWriter

from .test_video import RATE, numbered_frames, write


def number_shown(image):
    """Which of `numbered_frames` this is."""
    red = float(np.median(image[image.shape[0] // 2 + 4 :, image.shape[1] // 2 + 4 :, 0]))
    return (red - 20) / 10


def read_all(path):
    """Frames, and what was said in the end."""
    frames = []
    try:
        for frame in open_frames(path).timed():
            frames.append(frame)
    except DamagedError as error:
        return frames, str(error)
    return frames, None


def packets_of(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_frames_after_damage_keep_their_numbers(tmp_path, suffix):
    path = write(tmp_path / f"clip{suffix}", numbered_frames(40))
    whole = bytearray(path.read_bytes())
    if suffix == ".ts":  # five of its packets of 188 bytes are gone
        start = len(whole) // 2 // 188 * 188
        del whole[start : start + 5 * 188]
    else:
        for position, size in packets_of(path)[4:7]:
            whole[position + 8 : position + size] = bytes(size - 8)  # but for Matroska's own header
    path.write_bytes(whole)
    frames, fault = read_all(path)
    assert fault is not None and ("lost" in fault or "damaged" in fault)
    assert len(frames) >= 25 and frames[-1].number == 39
    assert frames[-1].time == pytest.approx(39 / RATE, abs=1e-3)
    whole_again = [frame for frame in frames if frame.number < 4 or frame.number >= 30]
    assert all(abs(number_shown(frame.image) - frame.number % 20) < 1 for frame in whole_again)


def test_a_hole_in_matroska_is_noticed(tmp_path):
    path = write(tmp_path / "clip.mkv", np.tile(numbered_frames(20), (3, 1, 1, 1)), cluster_time_limit="100")
    whole = path.read_bytes()
    clusters = [i for i in range(len(whole)) if whole[i : i + 4] == b"\x1f\x43\xb6\x75"]
    with av.open(str(path)) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    first, last = (max(c for c in clusters if c < keys[i]) for i in (2, 3))
    path.write_bytes(whole[:first] + b"\xff" * (last - first) + whole[last:])
    frames, fault = read_all(path)
    lost = 60 - len(frames)
    assert fault is not None and f"{lost} frames lost" in fault and 8 <= lost <= 10
    assert [frame.number for frame in frames[-30:]] == list(range(30, 60))
    assert abs(number_shown(frames[-28].image) - 32 % 20) < 1


def test_variable_rate_is_no_damage(tmp_path):
    times = [0, 0.04, 0.08, 0.2, 0.21, 1.0, 1.5]
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"variable{suffix}"
        with VideoWriter(path, RATE) as video:
            for frame, time in zip(numbered_frames(7), times, strict=True):
                video.write(frame, time)
        frames, fault = read_all(path)
        assert fault is None and [frame.number for frame in frames] == list(range(7))
        assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)


def test_clock():
    clock = FrameClock(RATE)
    numbers = [clock.number(i / 25, key=i % 10 == 0, corrupt=False) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 20)]
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 18]  # 11: a frame that was held; 20: a key frame after a hole
    assert clock.faults() == ["8 frames lost"]
    assert clock.number(1e12, key=True, corrupt=False) == 19  # a broken time is no hole
    clock = FrameClock(RATE)
    assert clock.number(0.7, key=True, corrupt=True) == 0
    assert clock.number(0.6, key=False, corrupt=False) is None  # it came too late
    clock = FrameClock(RATE)
    assert [clock.number(t, key=True, corrupt=False) for t in (0, 0.05, 0.4, 0.5)] == [0, 1, 2, 3]
    clock.missed()
    assert clock.number(0.9, key=True, corrupt=True) == 5
    assert clock.faults() == ["1 frames lost", "1 damaged"]


def test_a_playlist_names_nothing_else(tmp_path):
    write(tmp_path / "secret.ts", numbered_frames(5))
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError):
        list(open_frames(tmp_path / "list.m3u8"))


def test_a_colon_is_part_of_a_name(tmp_path):
    path = tmp_path / "12:30 a%d.mp4"
    with VideoWriter(path, RATE) as video:
        for frame in numbered_frames(3):
            video.write(frame)
    assert os.listdir(tmp_path) == [path.name] and len(list(open_frames(path))) == 3


# --- writing ---


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


FULL = """
import resource, signal, sys
import numpy as np
from fractions import Fraction
from grm.errors import MediaError
from grm.media.writer import VideoWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
chance = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], Fraction(25)) as video:
        for i in range(100):
            video.write(chance.integers(0, 255, (72, 96, 3), dtype=np.uint8))
except MediaError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 5000, 60_000, 150_000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_full_disk_is_said_and_takes_nothing_away(tmp_path, size, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"what was there")
    result = run(FULL, path, size)
    assert result.returncode == 1 and f"out{suffix}: cannot be written: File too large" in result.stderr
    assert path.read_bytes() == b"what was there"
    if size == 150_000:
        assert len(read_all(tmp_path / f"out.unfinished{suffix}")[0]) > 10


KILLED = """
import os, signal, sys
import numpy as np
from fractions import Fraction
from grm.media.writer import VideoWriter

video = VideoWriter(sys.argv[1], Fraction(25))
for i in range(100):
    video.write(np.full((48, 64, 3), 2 * i, np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_was_written_before_a_kill_can_be_read(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"what was there")
    assert run(KILLED, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"what was there"
    frames, _ = read_all(tmp_path / "out.unfinished.mp4")
    assert len(frames) >= 50
    assert np.abs(frames[40].image.astype(int) - 80).max() < 4


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"what was there")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, RATE) as video:
        for frame in numbered_frames(5):
            video.write(frame)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"what was there"
    assert len(list(open_frames(tmp_path / "out.unfinished.mp4"))) == 5


def test_a_muxer_that_failed_is_not_touched_again(tmp_path):
    path = tmp_path / "out.mp4"
    path.symlink_to("/dev/full")
    with pytest.raises(MediaError, match=r"out\.mp4: cannot be written: No space left on device"):
        with VideoWriter(path, RATE) as video:
            for frame in numbered_frames(3):
                video.write(frame)
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_container_of_other_codecs_is_refused_at_the_first_frame(tmp_path):
    with (
        pytest.raises(MediaError, match=r"out\.ogv: cannot be written: \.ogv does not hold such a video; \.mp4"),
        VideoWriter(tmp_path / "out.ogv", Fraction(25)) as video,
    ):
        video.write(numbered_frames(1)[0])
    assert not os.listdir(tmp_path)


def test_a_rate_of_any_fraction_can_be_written(tmp_path):
    for rate in (Fraction(359640000, 11998741), Fraction(1, 5000), Fraction(10**6, 3)):
        with VideoWriter(tmp_path / "out.mp4", rate) as video:
            for index, frame in enumerate(numbered_frames(3)):
                video.write(frame, float(index / rate))
        assert len(read_all(tmp_path / "out.mp4")[0]) == 3


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(7), Fraction(1, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_rates_are_kept(tmp_path, suffix, rate):
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, rate) as video:
        for index, frame in enumerate(numbered_frames(12)):
            video.write(frame, float(index / rate))
    frames, fault = read_all(path)
    assert fault is None and open_frames(path).rate == rate
    assert [frame.time for frame in frames] == pytest.approx([float(i / rate) for i in range(12)], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_no_damage_is_more_than_a_message(tmp_path, suffix):
    path = write(tmp_path / f"clip{suffix}", numbered_frames(40))
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(75):
        damaged = bytearray(whole)
        start, length = chance.randrange(len(whole)), chance.choice((1, 20, 500))
        damaged[start : start + length] = chance.randbytes(min(length, len(whole) - start))
        path.write_bytes(damaged)
        try:
            frames, _ = read_all(path)
        except MediaError as error:
            assert "\n" not in str(error)
        else:
            numbers = [frame.number for frame in frames]
            assert numbers == sorted(set(numbers)) and numbers[-1] < 400
