"""Frames of video files, of folders of images, and of cameras: RGB, (height, width, 3) uint8.

PyAV is imported when a video file is opened.
"""

import itertools
import re
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from ..crop import Image
from ..errors import DamagedError, MediaError
from .clock import FrameClock
from .images import deep_bits, image_folder, list_frames, oddities, read_image_warned

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# What a file says of its own length may be off by so many seconds; more is missing only where it was cut short.
_SLACK = 0.2


# FFmpeg takes what stands before a colon for a protocol; a playlist could name any file or address.
_LOCAL = {"protocol_whitelist": "file"}
# Of an address the user has named it. What it leads to may be an address again, but no file.
_HTTP = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
# In one connection no packet is lost; a camera that knows datagrams only is asked for them.
_RTSP = {"protocol_whitelist": "rtsp,rtp,tcp,udp", "rtsp_flags": "prefer_tcp"}
_NETWORK = {"http": _HTTP, "https": _HTTP, "rtsp": _RTSP}
# Seconds without a sign of it.
_TIMEOUT = 15.0
# A file that is nothing but damage is not searched to its end.
_MAX_FAULTS = 1000


class Frame(NamedTuple):
    """A frame, and where in its video it belongs."""

    #: The first is 0. Frames that damage has taken away are counted.
    number: int
    #: Seconds since the first.
    time: float
    #: Name of the file that it is from.
    file: str
    image: Image


class Frames(Protocol):
    """Frames of a video, once through. Raises MediaError where it cannot go on."""

    #: What it is called in messages and file names.
    name: str
    #: Frames per second.
    rate: Fraction
    #: Number of frames; None where nobody knows. It may be a guess, from how long a video lasts, unless it was counted.
    length: int | None
    counted: bool
    #: Whether it ends only when it is stopped.
    endless: bool
    #: What a user should know of it, a sentence each.
    notes: list[str]
    #: What damage was found in the frames that `timed` gave, if any; known once that has ended or is closed.
    damage: DamagedError | None

    def __iter__(self) -> Iterator[Image]:
        """Frames from the first to the last."""
        ...

    def timed(self) -> Generator[Frame, None, None]:
        """The same, with the number and the time of each."""
        ...


def open_frames(source: str | Path, rate: Fraction | None = None) -> Frames:
    """Frames of a video file, of a folder of images in their natural order, of a camera, or of an address.

    Args:
        source: path of a file or folder, a camera's number, or the address of a file or a stream: http://..., rtsp://...
        rate: frames per second of a folder of images, which does not say; None: 30.

    Raises:
        MediaError: there is no such thing, or it holds no frames.

    """
    if match := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", str(source)):
        if match[1].lower() not in _NETWORK:
            known = ", ".join(_NETWORK)
            raise MediaError(f"{source}: {match[1]} is not read, {known} are; or record it to a file first")
        return NetworkFrames(str(source))
    path = Path(source)
    if path.is_dir():
        return FolderFrames(path, rate or Fraction(30))
    if rate is not None:
        raise MediaError(f"{source}: only a folder of images is given a rate")
    if path.is_file():
        return VideoFrames(path)
    if path.exists():
        raise MediaError(f"{source}: expected a file or a folder, got a pipe or a device")
    if str(source).isdecimal() and len(str(source)) < 4:
        return CameraFrames(int(str(source)))
    raise MediaError(f"{source}: no such file or folder")


def readable(frames: Frames, limit: int | None = None) -> Iterator[Image]:
    """The images of a source as far as they can be read; what damage there is, `frames.damage` says afterwards.

    Args:
        frames: of the source.
        limit: so many of them at most.

    """
    with closing(frames.timed()) as timed, suppress(DamagedError):
        yield from (frame.image for frame in itertools.islice(timed, limit))


class VideoFrames:
    """Frames of a video file, upright as its rotation says."""

    #: Of `Frames`; a stream has no end.
    endless = False

    def __init__(self, path: PurePath, title: str | None = None):
        self.path = path
        self.name = path.stem
        self.notes: list[str] = []
        self.damage: DamagedError | None = None
        self._title = title or str(path)
        with self._open() as container:
            stream = _video_stream(container, self._title)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(30)
            self._end = _expected_end(container, stream)
            self.counted = stream.frames > 0
            self.length = stream.frames or (round(self._end * self.rate) if self._end else None)
            # Frames of an AVI have no times, but are counted.
            self._timed = container.format.name != "avi"

    def __iter__(self) -> Iterator[Image]:
        """Frames from the first to the last; errors as of `timed`."""
        return (frame.image for frame in self.timed())

    def timed(self) -> Generator[Frame, None, None]:
        """Frames from the first to the last; what cannot be decoded is passed over.

        Raises:
            DamagedError: after the last frame that could be read; says what was damaged, or missing.
            MediaError: there is none.

        """
        clock, count, last, end, start = FrameClock(self.rate), 0, -1, 0.0, None
        known = 0, 0.0  # number and time of the last frame that has one
        self.damage = None
        try:
            with self._open() as container:
                stream = _video_stream(container, self._title)
                stream.thread_type = "AUTO"
                for decoded in _decode(container, stream, clock, self._title):
                    seconds = decoded.time if self._timed else None
                    number = clock.number(seconds, key=bool(decoded.key_frame), corrupt=decoded.is_corrupt)
                    if number is None:
                        continue
                    last = number
                    seconds = known[1] + float((number - known[0]) / self.rate) if seconds is None else seconds
                    known = known if decoded.time is None or not self._timed else (number, seconds)
                    start = seconds if start is None else start
                    count += 1
                    yield Frame(number, seconds - start, self.path.name, _upright(decoded))
                    lasts = decoded.duration * (decoded.time_base or 0) if decoded.duration else 1 / self.rate
                    end = max(end, seconds + float(lasts))
        except GeneratorExit:
            self.damage = self._damaged(clock.faults(), count)
            raise
        if count == 0:
            raise MediaError(f"{self._title}: holds no frame that can be read")
        if not self._timed and self.length and last + 1 < self.length:
            clock.missed(self.length - last - 1)
        faults = clock.faults()
        if self._end is not None and end < self._end - _SLACK:
            faults.append(f"truncated: {end:.1f} of {self._end:.1f} seconds")
        self.damage = self._damaged(faults, count)
        if self.damage is not None:
            raise self.damage

    def _damaged(self, faults: list[str], count: int) -> DamagedError | None:
        return DamagedError(f"{self._title}: {', '.join(faults)}; {count} frames were read") if faults else None

    def _open(self) -> "av.container.InputContainer":
        return _opened(f"file:{self.path}", self._title, _LOCAL)


class NetworkFrames(VideoFrames):
    """Frames of a video, or of a camera's stream, at an address; stopped at will."""

    endless = True

    def __init__(self, address: str):
        try:
            self._address = urlsplit(address)
        except ValueError as error:
            raise MediaError(f"{address}: not an address: {error}") from None
        super().__init__(PurePosixPath(self._address.path.strip("/") or "stream"), address)

    def _open(self) -> "av.container.InputContainer":
        address, host = self._title, self._address.hostname
        start = time.monotonic()
        try:
            return _opened(address, address, _NETWORK[self._address.scheme])
        except MediaError:  # FFmpeg has one error for several
            if time.monotonic() - start >= _TIMEOUT:
                raise MediaError(f"{address}: no answer within {_TIMEOUT:g} seconds") from None
            if not _is_known(host):
                raise MediaError(f"{address}: there is no host {host}") from None
            raise


def _is_known(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _opened(address: str, name: str, options: dict[str, str]) -> "av.container.InputContainer":
    import av

    try:
        return av.open(address, options=dict(options), metadata_errors="replace", timeout=_TIMEOUT)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{name}: not a video that can be read: {error.strerror}") from None


def _decode(
    container: "av.container.InputContainer", stream: "VideoStream", clock: FrameClock, title: str
) -> Iterator["av.VideoFrame"]:
    """Frames of a stream; what cannot be understood or decoded is passed over, and told to the clock."""
    import av

    packets, faults = container.demux(stream), 0
    while faults < _MAX_FAULTS:
        try:
            packet = next(packets, None)
        except av.error.ExitError:
            raise MediaError(f"{title}: nothing more came for {_TIMEOUT:g} seconds") from None
        except OSError as error:
            raise MediaError(f"{title}: nothing more can be read: {error.strerror}") from None
        except av.error.FFmpegError:  # the generator has ended with it; the file may go on
            packets, faults = container.demux(stream), faults + 1
            clock.missed()
            continue
        if packet is None:
            return
        if packet.is_corrupt:
            clock.corrupt()
        try:
            decoded = packet.decode()
        except av.error.EOFError:  # flushed already, before an error
            return
        except av.error.FFmpegError:
            faults += 1
            clock.missed()
            continue
        yield from decoded


class FolderFrames:
    """The images of a folder, or of its folder `img`, in natural order: 2.jpg before 10.jpg."""

    def __init__(self, path: Path, rate: Fraction):
        self.path, self.name = path, path.resolve().name
        self.rate = rate
        images = image_folder(path)
        names = list_frames(images)
        self.paths = [images / name for name in names]
        self.length: int | None = len(self.paths)
        self.counted = True
        self.damage: DamagedError | None = None
        self.endless, self.notes = False, [f"{path}: {note}" for note in oddities(images, names)]
        if bits := deep_bits(self.paths[0]):
            self.notes.append(f"{self.paths[0]}: {bits} of 16 bits are used, and scaled to 8")

    def __iter__(self) -> Iterator[Image]:
        """Images from the first to the last; a MediaError at one that cannot be read."""
        return (frame.image for frame in self.timed())

    def timed(self) -> Generator[Frame, None, None]:
        """The same, numbered as they lie there, one after the other at the rate that was given.

        Raises:
            DamagedError: after the last image, if the decoder found damage in some.
            MediaError: one cannot be read.

        """
        damaged: list[str] = []
        self.damage, number = None, 0
        try:
            for number, path in enumerate(self.paths):
                image, warned = read_image_warned(path)
                damaged += [path.name] if warned else []
                yield Frame(number, float(number / self.rate), path.name, image)
        finally:
            if damaged:
                count = f"{len(damaged)} damaged of {number + 1} images"
                self.damage = DamagedError(f"{self.path}: {count}, first {damaged[0]}")
        if self.damage is not None:
            raise self.damage


class CameraFrames:
    """Frames of a camera, until it is taken away."""

    def __init__(self, number: int):
        self.name = f"camera{number}"
        self.length: int | None = None
        self.counted, self.endless = False, True
        self.notes: list[str] = []
        self.damage: DamagedError | None = None
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise MediaError(f"camera {number}: cannot be opened")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        # Where it is not known it may be 0, -1, infinite or no number.
        self.rate = Fraction(rate if 0 < rate < 1e6 else 30).limit_denominator(1001)

    def __iter__(self) -> Iterator[Image]:
        """Frames as they come."""
        return (frame.image for frame in self.timed())

    def timed(self) -> Generator[Frame, None, None]:
        """Frames as they come, at the times at which they did."""
        start = None
        try:
            for number in itertools.count():
                arrived, image = self._capture.read()
                if not arrived:
                    raise MediaError(f"{self.name}: no more frames")
                now = time.monotonic()
                start = now if start is None else start
                yield Frame(number, now - start, self.name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        finally:
            self._capture.release()


def _video_stream(container: "av.container.InputContainer", title: str) -> "VideoStream":
    if not container.streams.video or container.format.name == "tty":  # FFmpeg's pictures made of text
        raise MediaError(f"{title}: holds no video")
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
