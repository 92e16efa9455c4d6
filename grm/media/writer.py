"""Frames written to a video file or into a folder. PyAV is imported when a video is opened."""

import re
from contextlib import ExitStack
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..crop import Image
from ..errors import MediaError
from ..files import Unfinished, check_fillable, filling
from .images import SUFFIXES, write_image

# Containers in which each frame has a time of its own; of these, MP4 and its kin keep their index apart.
_INDEXED = (".mp4", ".m4v", ".mov")
_TIMED = (*_INDEXED, ".mkv")
# Times are kept to this many steps a second, or a few more.
_STEPS = 50_000
# What is lost with a process that is killed, in microseconds of video.
_FRAGMENT = 1_000_000


class VideoWriter:
    """Writes frames to a video file (H.264 where PyAV has it). Use it in a with statement.

    Until the end of that the file lies beside its place as `NAME.unfinished.SUFFIX`, readable but for the last second.
    It stays there if the block ends in an exception, and what was in its place before stays too.

    Args:
        path: of the file; its suffix says the container (.mp4, .mkv, ...).
        rate: frames per second.

    Raises:
        MediaError: the file cannot be written, or its suffix is not one of a video.

    """

    def __init__(self, path: str | Path, rate: Fraction):
        self.path = Path(path)
        # Times are whole multiples of a step that both halves of a fraction of 32 bits can say.
        self.rate = Fraction(rate).limit_denominator(1001) or Fraction(1, 1001)
        if self.path.is_dir():
            raise MediaError(f"{path}: cannot be written as a video: it is a folder")
        if not self.path.absolute().parent.is_dir():
            raise MediaError(f"{path}: cannot be written: there is no folder {self.path.parent}")
        import av

        h264 = "libx264" in av.codecs_available
        self._file = Unfinished(self.path)
        suffix = self.path.suffix.lower()
        options = {"flush_packets": "1"}
        if suffix in _INDEXED:
            options |= {"movflags": _fragmented(av), "frag_duration": str(_FRAGMENT)}
        try:
            self._container = av.open(f"file:{self._file.path}", "w", options=options)
            self._stream = self._container.add_stream("libx264" if h264 else "mpeg4", rate=self.rate)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._file.discard()
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{path}: cannot be written as a video: {reason}") from None
        self._stream.pix_fmt = "yuv420p"
        self._steps = 1
        if h264:
            # Other containers keep the times of decoding alone, or none.
            in_order = {} if suffix in _TIMED else {"bf": "0"}
            self._stream.options = {"crf": "20", "preset": "veryfast", **in_order}
            if suffix in _TIMED:
                self._steps = max(1, ceil(_STEPS / self.rate))
        self._stream.codec_context.time_base = 1 / (self.rate * self._steps)
        self._size: tuple[int, int] | None = None
        self._next = 0
        self._empty = True
        self._broken = False

    def write(self, frame: Image, time: float | None = None) -> None:
        """Appends a frame; all must be of one size.

        Args:
            frame: to write.
            time: seconds since the first, if the container keeps it; None: one interval after the frame before.

        """
        # H.264 in its common form halves the resolution of colours: sides must be even.
        frame = cv2.copyMakeBorder(frame, 0, frame.shape[0] % 2, 0, frame.shape[1] % 2, cv2.BORDER_REPLICATE)
        size = (frame.shape[1], frame.shape[0])
        if self._size not in (None, size):
            raise MediaError(f"{self.path}: expected frames of width and height {self._size}, got {size}")
        import av

        if self._size is None:
            self._stream.width, self._stream.height = size
            with self._guarded():
                self._container.start_encoding()  # what the container cannot hold is said now, not at the end
            self._size = size
        video_frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if time is not None and self._steps > 1:
            self._next = max(self._next, round(time * self.rate * self._steps))
        video_frame.pts, video_frame.time_base = self._next, self._stream.codec_context.time_base
        # At least a step later; without a time, an interval.
        self._next += self._steps if time is None or self._steps == 1 else 1
        with self._guarded():
            self._empty = False
            self._container.mux(self._stream.encode(video_frame))

    def close(self, *, whole: bool = True) -> Path:
        """Writes what is pending and closes the file.

        Args:
            whole: puts it in its place; else it stays beside it.

        Returns:
            where it is.

        """
        if self._empty:  # an encoder that has seen no frame may end the process when it is asked for the rest
            self._file.discard()
        elif not self._broken:
            with self._guarded():
                self._container.mux(self._stream.encode(None))
                self._container.close()
            if whole:
                return self._file.finish()
        return self._file.path

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)

    def _guarded(self) -> "_Guard":
        return _Guard(self)


class FrameFolder:
    """Writes frames into a folder, each an image file that its number names. Use it in a with statement.

    Until the end of that the folder is called `NAME.unfinished`, and stays so if the block ends in an exception.

    Args:
        path: of the folder, which is new or empty; with a pattern for the names, as `drawn/%05d.png`, or without one.

    Raises:
        MediaError: the folder is not empty, or the pattern is not one of images.

    """

    def __init__(self, path: Path):
        pattern = path.name if "%" in path.name else "%06d.jpg"
        #: The folder.
        self.path = path.parent if "%" in path.name else path
        if not re.fullmatch(r"[^%]*%(0\d)?d[^%]*", pattern) or not pattern.lower().endswith(SUFFIXES):
            raise MediaError(f"{path}: expected one %d or %06d in the names, and one of {', '.join(SUFFIXES)}")
        check_fillable(self.path, MediaError)
        self._pattern = pattern
        self._context = ExitStack()

    @staticmethod
    def is_meant(path: Path) -> bool:
        """Whether a path is that of a folder of frames rather than of a video."""
        return "%" in path.name or path.is_dir() or not path.suffix

    def write(self, frame: Image, number: int) -> None:
        """Writes the frame of a number."""
        write_image(self._folder / (self._pattern % number), frame)

    def __enter__(self) -> "FrameFolder":
        self._folder = self._context.enter_context(filling(self.path, MediaError))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)


class _Guard:
    """Names the file that FFmpeg fails on, which is not touched again: a muxer that has failed may end the process."""

    def __init__(self, writer: VideoWriter):
        self._writer = writer

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        import av

        # By a signal, too: a Python function that FFmpeg's wrapper calls in its middle may end in KeyboardInterrupt.
        self._writer._broken |= error is not None
        if isinstance(error, av.error.FFmpegError | ValueError | OSError | OverflowError):
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, av.error.ArgumentError):
                reason = f"{self._writer.path.suffix} does not hold such a video; .mp4 and .mkv do"
            raise MediaError(f"{self._writer.path}: cannot be written: {reason}") from None


def _fragmented(av: Any) -> str:
    """Has an MP4 be readable at any time; since FFmpeg 7.1 it becomes an ordinary one at the end."""
    flag = "hybrid_fragmented" if av.library_versions["libavformat"] >= (61, 7) else "frag_keyframe+empty_moov"
    return f"{flag}+default_base_moof"
