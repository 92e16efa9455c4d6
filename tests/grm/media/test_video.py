"""Frames in and out: the right ones, upright; and what is said of files that are not as they should be."""

import os
from fractions import Fraction
from unittest.mock import Mock

import av
import cv2
import numpy as np
import pytest

from grm.errors import MediaError
from grm.media.frames import CameraFrames, open_frames
from grm.media.writer import VideoWriter

RATE = Fraction(25)


def numbered_frames(count, height=48, width=64):
    """Frame i is of one colour, which i tells; its left upper quarter is white."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = (10 * (i % 20) + 20, 200 - 8 * (i % 20), 60)
        frame[: height // 2, : width // 2] = 255
    return frames


def write(path, frames, **options):
    """A video file by PyAV, with options of the container."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "1", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def assert_same(frames, expected):
    frames = list(frames)
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        assert frame.dtype == np.uint8 and frame.shape == other.shape
        assert np.abs(frame.astype(int) - other).mean() < 4  # lossy, but frames are 10 apart


def collect(frames, into):
    for frame in frames:
        into.append(frame)


def test_video_file(tmp_path):
    expected = numbered_frames(30)
    frames = open_frames(write(tmp_path / "clip.mp4", expected))
    assert (frames.name, frames.rate, frames.length) == ("clip", RATE, 30)
    assert_same(frames, expected)
    assert_same(frames, expected)  # again from the first


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
def test_other_containers(tmp_path, suffix):
    expected = numbered_frames(30)
    assert_same(open_frames(write(tmp_path / f"clip{suffix}", expected)), expected)


def test_times_that_a_program_stream_has_in_part(tmp_path):
    """H.264 in MPEG-PS, as recorders write it, begins later than at 0 and has times for some frames."""
    path = write(tmp_path / "clip.mpg", numbered_frames(25))
    with av.open(str(path)) as container:
        known = [frame.pts is not None for frame in container.decode(video=0)]
    assert any(known) and not all(known), "the case that is meant"
    times = np.array([frame.time for frame in open_frames(path).timed()])
    assert times[0] == 0 and np.diff(times) == pytest.approx(1 / float(RATE), abs=1e-3)


def test_a_pipe_is_no_video(tmp_path):
    """It would be waited for, and never say anything."""
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match=r"pipe.mp4: expected a file or a folder, got a pipe or a device"):
        open_frames(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_comes_upright(tmp_path, degrees):
    upright = numbered_frames(3)
    stored = np.rot90(upright, -degrees // 90, axes=(1, 2))  # turned back by the rotation that the file asks for
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = stored.shape[2], stored.shape[1], "yuv444p"
        stream.set_display_rotation(degrees)
        for frame in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    assert_same(open_frames(tmp_path / "phone.mp4"), upright)


def test_a_frame_that_is_held_is_no_gap(tmp_path):
    """Screen recordings and animations show frames for as long as nothing changes: here the last one for 2 s."""
    frames = numbered_frames(4)
    with av.open(str(tmp_path / "held.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        packets = []
        for image in (*frames, None):
            frame = None if image is None else av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            packets += stream.encode(frame)
        packets[-1].duration = round(2 / packets[-1].time_base)
        container.mux(packets)
    assert_same(open_frames(tmp_path / "held.mp4"), frames)


@pytest.mark.parametrize(("name", "options"), [("cut.mkv", {}), ("cut.mp4", {"movflags": "faststart"})])
def test_truncated_video_gives_what_it_has_and_then_says_so(tmp_path, name, options):
    expected = np.random.default_rng(0).integers(0, 256, (75, 48, 64, 3), dtype=np.uint8)
    path = write(tmp_path / name, expected, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got = []
    with pytest.raises(MediaError, match=rf"{name}: .*(truncated|lost)"):
        collect(open_frames(path), got)
    assert 20 < len(got) < 60
    assert_same(got, expected[: len(got)])


@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_truncated_video_with_sound(tmp_path, kept):
    expected = np.random.default_rng(0).integers(0, 256, (75, 48, 64, 3), dtype=np.uint8)
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"g": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv444p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for frame in expected:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
            samples.sample_rate = 8000
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    assert len(list(open_frames(path))) == 75
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    got = []
    with pytest.raises(MediaError, match=r"sound\.mkv: .*(truncated|lost)"):
        collect(open_frames(path), got)
    assert 0.7 * kept * 75 < len(got) < 75


def test_rate_is_for_folders(tmp_path):
    with pytest.raises(MediaError, match="only a folder of images is given a rate"):
        open_frames(write(tmp_path / "clip.mp4", numbered_frames(2)), Fraction(10))


def test_folder_in_natural_order(tmp_path):
    expected = numbered_frames(12)
    for i, frame in enumerate(expected):
        cv2.imwrite(str(tmp_path / f"img{i}.png"), frame[..., ::-1])
    (tmp_path / "groundtruth.txt").write_text("1,2,3,4\n")
    (tmp_path / "._0.png").write_bytes(b"what a Mac leaves")
    (tmp_path / "2.png").mkdir()
    frames = open_frames(tmp_path, Fraction(10))
    assert (frames.name, frames.rate, frames.length) == (tmp_path.name, 10, 12)
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=True))


def test_broken_image_is_named(tmp_path):
    for i, frame in enumerate(numbered_frames(2)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame)
    for content, message in ((b"no image", r"2\.png: not an image"), (b"\xff\xd8\xff", "the JPEG is cut off")):
        (tmp_path / "2.png").write_bytes(content)
        got = []
        with pytest.raises(MediaError, match=message):
            collect(open_frames(tmp_path), got)
        assert len(got) == 2


def test_camera(monkeypatch):
    class Capture:
        """Two frames of OpenCV's camera, which are BGR, and then none."""

        def __init__(self, number):
            self.left, self.released = 2, False
            captures.append(self)

        def isOpened(self):  # noqa: N802
            return True

        def get(self, what):
            return told[0]

        def read(self):
            self.left -= 1
            return (True, np.full((48, 64, 3), (1, 2, 3), np.uint8)) if self.left >= 0 else (False, None)

        def release(self):
            self.released = True

    captures, told = [], [29.97]
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    frames, got = open_frames("0"), []
    assert isinstance(frames, CameraFrames)
    with pytest.raises(MediaError, match="camera0: no more frames"):
        collect(frames, got)
    assert [tuple(frame[0, 0]) for frame in got] == [(3, 2, 1)] * 2
    assert float(frames.rate) == pytest.approx(29.97, abs=1e-3)
    assert captures[0].released
    for told[0] in (0.0, -1.0, float("inf"), float("nan")):  # not known
        assert open_frames("0").rate == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "missing.mp4: no such file or folder"),
        ("notes.txt", b"not a video, only text\n" * 20, "notes.txt: holds no video"),
        ("notes.mp4", b"not a video, only text\n" * 20, "notes.mp4: not a video that can be read"),
        ("empty.mp4", b"", "empty.mp4: not a video that can be read"),
        ("folder/notes.txt", b"", "folder: holds no images"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as error:
        open_frames(path.parent if path.parent != tmp_path else path)
    assert "\n" not in str(error.value)


def test_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match=r"sound\.wav: holds no video"):
        open_frames(tmp_path / "sound.wav")


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (48, 63)])
def test_written_video_can_be_read(tmp_path, size):
    """H.264 wants even sides: an odd one grows by a pixel."""
    expected = numbered_frames(8, *size)
    with VideoWriter(tmp_path / "out.mp4", RATE) as writer:
        for frame in expected:
            writer.write(frame)
    frames = open_frames(tmp_path / "out.mp4")
    assert frames.rate == RATE
    got = list(frames)
    assert got[0].shape == (48, 64, 3)
    assert_same([frame[: size[0], : size[1]] for frame in got], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xyz", "out.xyz: cannot be written as a video"),
        ("out.png", "out.png: cannot be written as a video"),
        ("no/such/out.mp4", "no folder"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, message):
    with pytest.raises(MediaError, match=message) as error:
        VideoWriter(tmp_path / name, RATE)
    assert "\n" not in str(error.value)


def test_frames_of_another_size_are_refused(tmp_path):
    with (
        VideoWriter(tmp_path / "out.mp4", RATE) as writer,
        pytest.raises(MediaError, match=r"\(64, 48\), got \(32, 24\)"),
    ):
        writer.write(numbered_frames(1)[0])
        writer.write(numbered_frames(1, 24, 32)[0])


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".avi", ".ts", ".flv", ".wmv", ".3gp"])
def test_written_frames_come_back_in_their_order(tmp_path, suffix):
    """Whatever times a container keeps: enough frames for the encoder to take some out of turn."""
    path = tmp_path / f"clip{suffix}"
    with VideoWriter(path, RATE) as writer:
        for frame in numbered_frames(20):
            writer.write(frame)
    frames = list(open_frames(path).timed())
    assert len(frames) == 20
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / float(RATE), abs=2e-3)
    shown = [float(np.median(frame.image[30:, 40:, 0])) for frame in frames]
    assert shown == sorted(shown)


def test_stopped_before_its_first_frame(tmp_path, monkeypatch):
    """The encoder, which has seen nothing, is asked for nothing: FFmpeg would end the process."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"before")
    monkeypatch.setattr(av.VideoFrame, "from_ndarray", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 25) as writer:
        writer.write(numbered_frames(1)[0])
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["x.mp4"]
