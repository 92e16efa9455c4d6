"""Frames written to a video file. PyAV is imported when one is opened."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..crop import Image
from ..errors import MediaError

if TYPE_CHECKING:
    import av


class VideoWriter:
    """Writes frames to a video file (H.264 where PyAV has it). Use it in a with statement: it is readable after that.

    Args:
        path: of the file; its suffix says the container (.mp4, .mkv, ...).
        rate: frames per second.

    Raises:
        MediaError: the file cannot be written, or its suffix is not one of a video.

    """

    def __init__(self, path: str | Path, rate: Fraction):
        self.path = Path(path)
        self.rate = rate
        if not self.path.absolute().parent.is_dir():
            raise MediaError(f"{path}: cannot be written: there is no folder {self.path.parent}")
        import av

        h264 = "libx264" in av.codecs_available
        try:
            self._container = av.open(str(path), "w")
            self._stream = self._container.add_stream("libx264" if h264 else "mpeg4", rate=rate)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{path}: cannot be written as a video: {reason}") from None
        self._stream.pix_fmt = "yuv420p"
        if h264:
            self._stream.options = {"crf": "20", "preset": "veryfast"}
        self._size: tuple[int, int] | None = None

    def write(self, frame: Image) -> None:
        """Appends a frame; all must be of one size."""
        # H.264 in its common form halves the resolution of colours: sides must be even.
        frame = cv2.copyMakeBorder(frame, 0, frame.shape[0] % 2, 0, frame.shape[1] % 2, cv2.BORDER_REPLICATE)
        size = (frame.shape[1], frame.shape[0])
        if self._size is None:
            self._size = self._stream.width, self._stream.height = size
        elif size != self._size:
            raise MediaError(f"{self.path}: expected frames of width and height {self._size}, got {size}")
        import av

        self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))

    def close(self) -> None:
        """Writes what is pending and closes the file."""
        if self._size is not None:
            self._mux(None)
        self._container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mux(self, frame: "av.VideoFrame | None") -> None:
        import av

        try:
            self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:
            raise MediaError(f"{self.path}: cannot be written: {error.strerror}") from None
