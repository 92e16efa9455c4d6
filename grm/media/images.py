"""Images from files, as RGB."""

import itertools
import os
import re
from pathlib import Path

import cv2
import numpy as np

from ..crop import Image
from ..errors import MediaError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Cameras append padding; the end of the image is looked for in so many last bytes.
_TAIL = 4096


def read_image(path: Path) -> Image:
    """An image file: (height, width, 3) uint8, RGB.

    Raises:
        MediaError: it is missing, no image, or a JPEG that ends too early (which OpenCV would fill with grey).

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from None
    if data.startswith(_JPEG_START) and _JPEG_END not in data[-_TAIL:]:
        raise MediaError(f"{path}: the JPEG is cut off after {len(data)} bytes")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # a header that asks for more pixels than there can be
        image = None
    if image is None:
        raise MediaError(f"{path}: not an image that OpenCV reads ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def list_frames(folder: Path) -> list[str]:
    """Names of the images in a folder, in natural order: 2.jpg before 10.jpg. Hidden files are none.

    Raises:
        MediaError: there is none, or no such folder.

    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file()]
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read: {error.strerror}") from None
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise MediaError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return sorted(names, key=_natural)


def oddities(folder: Path, names: list[str]) -> list[str]:
    """What looks wrong with the images of a folder, a few words each: numbers missing, names of two kinds, dead links.

    Args:
        folder: that they are in.
        names: as of `list_frames`.

    """
    kinds: dict[tuple[str, str], list[int]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d+)(\D*)", name):
            kinds.setdefault((match[1], match[3]), []).append(int(match[2]))
    found = []
    if len(kinds) > 1:
        shown = ", ".join(f"{start}N{end}" for start, end in list(kinds)[:3])
        found.append(f"its images have names of {len(kinds)} kinds, all of which are taken for frames: {shown}")
    for (start, end), numbers in kinds.items() if len(kinds) == 1 else ():
        numbers.sort()
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        if gaps := [at for at, step in enumerate(steps) if step > max(1, min(steps))]:
            after = numbers[gaps[0]]
            found.append(f"{len(gaps)} gap(s) in the numbers of its images, the first after {start}{after}{end}")
    dead = [n for n in sorted(os.listdir(folder)) if n.lower().endswith(SUFFIXES) and not (folder / n).exists()]
    if dead:
        found.append(f"{len(dead)} link(s) that lead nowhere, as {dead[0]}")
    return found


def _natural(name: str) -> tuple[list[int | str], str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name
