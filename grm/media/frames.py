"""Frames of video files, of folders of images, and of cameras: RGB, (height, width, 3) uint8.

PyAV is imported when a video file is opened.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from ..crop import Image
from ..errors import MediaError
from .images import list_frames, read_image

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# What a file says of its own length may be off by so many seconds; more is missing only where it was cut short.
_SLACK = 0.2


class Frames(Protocol):
    """Frames of a video, once through. Raises MediaError where it cannot go on."""

    #: What it is called in messages and file names.
    name: str
    #: Frames per second.
    rate: Fraction
    #: Number of frames; None where nobody knows.
    length: int | None

    def __iter__(self) -> Iterator[Image]:
        """Frames from the first to the last."""
        ...


def open_frames(source: str | Path, rate: Fraction | None = None) -> Frames:
    """Frames of a video file, of a folder of images in their natural order, or of a camera.

    Args:
        source: path of a file or folder, or a camera's number.
        rate: frames per second of a folder of images, which does not say; None: 30.

    Raises:
        MediaError: there is no such thing, or it holds no frames.

    """
    path = Path(source)
    if path.is_dir():
        return FolderFrames(path, rate or Fraction(30))
    if rate is not None:
        raise MediaError(f"{source}: only a folder of images is given a rate")
    if path.exists():
        return VideoFrames(path)
    if str(source).isdecimal() and len(str(source)) < 4:
        return CameraFrames(int(str(source)))
    raise MediaError(f"{source}: no such file or folder")


class VideoFrames:
    """Frames of a video file, upright as its rotation says."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.stem
        with self._open() as container:
            stream = _video_stream(container, path)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(30)
            self._end = _expected_end(container, stream)
            self.length = stream.frames or (round(self._end * self.rate) if self._end else None)

    def __iter__(self) -> Iterator[Image]:
        """Frames from the first to the last; a MediaError follows those that a damaged file still gives."""
        import av

        count, end = 0, 0.0
        with self._open() as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    yield _upright(frame)
                    count += 1
                    lasts = frame.duration * frame.time_base if frame.duration else 1 / self.rate
                    end = max(end, (frame.time or 0.0) + float(lasts))
            except av.error.FFmpegError as error:
                raise MediaError(f"{self.path}: broken after {count} frames: {error.strerror}") from None
        if count == 0:
            raise MediaError(f"{self.path}: holds no frame that can be read")
        if self._end is not None and end < self._end - _SLACK:
            raise MediaError(f"{self.path}: truncated: {end:.1f} of {self._end:.1f} seconds, {count} frames")

    def _open(self) -> "av.container.InputContainer":
        import av

        try:
            return av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: not a video that can be read: {error.strerror}") from None


class FolderFrames:
    """The images of a folder, in natural order: 2.jpg before 10.jpg."""

    def __init__(self, path: Path, rate: Fraction):
        self.name = path.resolve().name
        self.rate = rate
        self.paths = [path / name for name in list_frames(path)]
        self.length: int | None = len(self.paths)

    def __iter__(self) -> Iterator[Image]:
        """Images from the first to the last; a MediaError at one that cannot be read."""
        for path in self.paths:
            yield read_image(path)


class CameraFrames:
    """Frames of a camera, until it is taken away."""

    def __init__(self, number: int):
        self.name = f"camera{number}"
        self.length: int | None = None
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise MediaError(f"camera {number}: cannot be opened")
        self.rate = Fraction(self._capture.get(cv2.CAP_PROP_FPS) or 30).limit_denominator(1001)

    def __iter__(self) -> Iterator[Image]:
        """Frames as they come."""
        try:
            while True:
                arrived, image = self._capture.read()
                if not arrived:
                    raise MediaError(f"{self.name}: no more frames")
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


def _video_stream(container: "av.container.InputContainer", path: Path) -> "VideoStream":
    if not container.streams.video or container.format.name == "tty":  # FFmpeg's pictures made of text
        raise MediaError(f"{path}: holds no video")
    return container.streams.video[0]


def _expected_end(container: "av.container.InputContainer", stream: "VideoStream") -> float | None:
    """When the last frame should end, in seconds; None where the file does not say, as in a transport stream."""
    if container.format.name == "mpegts":  # its duration is that of what is there
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        hours, minutes, seconds = map(float, match.groups())
        return 3600 * hours + 60 * minutes + seconds
    if container.duration is not None and len(container.streams) == 1:  # of the longest stream
        return container.duration / 1_000_000  # microseconds, FFmpeg's AV_TIME_BASE
    return None


def _upright(frame: "av.VideoFrame") -> Image:
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
