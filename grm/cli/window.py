"""A window in which the user watches what is tracked, and says what is to be followed."""

import os
import sys

import cv2

from ..boxes import Boxes, as_boxes
from ..crop import Image
from ..errors import ConfigError

_KEYS = "space: pause, b: draw its box, n: next target, q: stop"
_ESCAPE = 27
# Milliseconds to wait for a key: of a frame, and while nothing moves.
_SHORT, _LONG = 1, 50


class LiveWindow:
    """Shows frames as they are tracked. Use it in a with statement.

    Space pauses and goes on, `b` lets the user draw a new box for the chosen target, around it or around something
    else, `n` chooses the next target; `q`, escape or closing the window ends it.

    Args:
        name: in its title.

    Raises:
        ConfigError: OpenCV has no windows, or there is no display.

    """

    def __init__(self, name: str):
        self._name = name
        self._chosen = 0
        #: Whether the user wants no more of it.
        self.closed = False
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError("--window: there is no display")
        try:
            cv2.namedWindow(name, cv2.WINDOW_AUTOSIZE)
        except cv2.error:
            raise ConfigError(
                "--window: this OpenCV is built without windows: pip uninstall opencv-python-headless, then "
                "pip install opencv-python"
            ) from None

    def __enter__(self) -> "LiveWindow":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_open():
            cv2.destroyWindow(self._name)

    def draw_box(self, frame: Image) -> Boxes | None:
        """The box (4,) that the user draws in a frame; None if there is none."""
        x, y, width, height = cv2.selectROI(self._name, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), showCrosshair=False)
        return as_boxes((x, y, width, height)) if width and height else None

    def show(self, drawn: Image, frame: Image, targets: int) -> dict[int, Boxes]:
        """Shows a frame, for as long as the user has it paused.

        Args:
            drawn: what to show.
            frame: as it came, to draw boxes in.
            targets: how many there are.

        Returns:
            the boxes (4,) that were drawn, by the number of the target.

        """
        boxes: dict[int, Boxes] = {}
        cv2.imshow(self._name, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        paused = False
        while True:
            cv2.setWindowTitle(self._name, f"{self._name}: target {self._chosen} of {targets}; {_KEYS}")
            key = cv2.waitKey(_LONG if paused else _SHORT) & 0xFF
            if key in (ord("q"), _ESCAPE) or not self._is_open():
                self.closed = True
            elif key == ord(" "):
                paused = not paused
            elif key == ord("n"):
                self._chosen = (self._chosen + 1) % targets
            elif key == ord("b") and (box := self.draw_box(frame)) is not None:
                boxes[self._chosen] = box
            if self.closed or not paused:
                return boxes

    def _is_open(self) -> bool:
        return cv2.getWindowProperty(self._name, cv2.WND_PROP_VISIBLE) >= 1
