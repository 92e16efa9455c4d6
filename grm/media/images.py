"""Images from files, as RGB."""

import itertools
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..crop import Image
from ..errors import MediaError
from ..files import naming, open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
#: An image has at most so many pixels: 8192 x 8192, for which half a GiB is needed.
MAX_PIXELS = 2**26

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_QUALITY = 95
# The next marker behind coded pixels, in which 0xFF stands before 0, or is a restart.
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
# How libjpeg begins what it says of damage; other threads may write to standard error meanwhile.
_JPEG_WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG file", "Invalid SOS parameters for sequential JPEG")
# Cameras append padding; the end of an image that is not well-formed is looked for in so many last bytes.
_TAIL = 4096


def read_image(path: Path) -> Image:
    """An image file: (height, width, 3) uint8, RGB.

    Of 16 bits that hold numbers of 12 or 14 only, the lower ones count: see `bits_of`.

    Raises:
        MediaError: it is missing, no image, too large, or a JPEG or PNG that ends too early (which OpenCV would fill
            with grey).

    """
    image = eight_bits(_read(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_with_opacity(path: Path) -> NDArray[np.uint8] | None:
    """An image file with an opacity: (height, width, 4) uint8, RGB and opacity; None of one without, or of 16 bits.

    Raises:
        MediaError: as of `read_image`.

    """
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def read_image_warned(path: Path) -> tuple[Image, bool]:
    """An image as of `read_image`, and whether the decoder warned that it is damaged.

    A JPEG has no checksums. Its decoder notices where the code breaks off or does not add up, about half of all damage;
    pixels that are merely others it cannot know.
    """
    with _decoder_messages() as messages:
        image = read_image(path)
    return image, bool(messages)


def eight_bits(image: np.ndarray) -> Image:
    """An image of uint8 as it is; of one of uint16 the highest eight bits of those that are used, see `bits_of`."""
    return (image >> (bits_of(image) - 8)).astype(np.uint8) if image.dtype == np.uint16 else image


def bits_of(image: np.ndarray) -> int:
    """How many bits the numbers of a 16-bit image take: 12, 14 or 16."""
    highest = int(image.max(initial=0)).bit_length()
    return next(bits for bits in (12, 14, 16) if highest <= bits)


def deep_bits(path: Path) -> int | None:
    """`bits_of` an image file that has 16 bits and uses fewer; None for every other."""
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        return None
    try:
        image = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except MediaError:  # told when it is read as a frame
        return None
    bits = bits_of(image) if image.dtype == np.uint16 else 16
    return bits if bits < 16 else None


def _read(path: Path, flags: int) -> np.ndarray:
    """An image file by OpenCV's flags, uint8 or uint16; errors as of `read_image`."""
    data = _content(path)
    if data.startswith(_JPEG_START) and not _jpeg_ends(data):
        raise MediaError(f"{path}: the JPEG is cut off after {len(data)} bytes")
    if data.startswith(_PNG_START) and not _png_ends(data):
        raise MediaError(f"{path}: the PNG is cut off, or a length in it is damaged ({len(data)} bytes)")
    size = _stated_size(data)
    if size and size[0] * size[1] > MAX_PIXELS:
        raise MediaError(f"{path}: {size[0]} x {size[1]} pixels, expected at most {MAX_PIXELS} in all")
    image = _decoded(data, flags)
    if image is None:
        raise MediaError(f"{path}: not an image that OpenCV reads ({len(data)} bytes)")
    if image.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"{path}: expected numbers of 8 or 16 bits without a sign, got {image.dtype}")
    return image


def _content(path: Path) -> bytes:
    try:
        with open_regular(path, MediaError) as file:
            return file.read()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from None


def _decoded(data: bytes, flags: int) -> np.ndarray | None:
    """Channels in OpenCV's order, of the numbers that the file has; None for what is no image."""
    if not data:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header that asks for more pixels than there can be
        return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment of a JPEG, as far as they follow each other."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        yield marker, place
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
        if marker == 0xDA:  # coded pixels follow
            found = _JPEG_MARKER.search(data, place)
            if found is None:
                return
            place = found.end() - 2
            if data[place + 1] == 0xD9:
                yield 0xD9, place
                return


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG has its end. Something else may follow, as the video of a moving picture."""
    return _JPEG_END in data[-_TAIL:] or any(marker == 0xD9 for marker, _ in _jpeg_segments(data))


def _png_ends(data: bytes) -> bool:
    """Whether the chunks of a PNG lie within it, to the last one. Its decoder takes memory for lengths as they are."""
    place = len(_PNG_START)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind == b"IEND":
            return place <= len(data)
    return False


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the header of an image has them; None where there is none to be found."""
    try:
        if data.startswith(_PNG_START):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(_JPEG_START):
            return _jpeg_size(data)
        if data.startswith(b"BM"):
            oldest = struct.unpack_from("<I", data, 14)[0] == 12  # with sides of 16 bits
            width, height = struct.unpack_from("<HH" if oldest else "<ii", data, 18)
            return abs(width), abs(height)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff_size(data)
    except struct.error:  # it is cut off
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, place in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, place + 5)[::-1]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:1] == b"I" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    sides = {}
    for entry in range(struct.unpack_from(f"{order}H", data, start)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * entry)
        if tag in (256, 257):  # width, height
            sides[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * entry)[0]
    return (sides[256], sides[257]) if len(sides) == 2 else None


@contextmanager
def _decoder_messages() -> Iterator[list[str]]:
    """Collects what libjpeg prints to standard error, which is the only place where it warns; else nothing is lost."""
    messages: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield messages
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines(keepends=True):
                if line.startswith(_JPEG_WARNINGS):
                    messages.append(line)
                else:
                    os.write(2, line.encode())


def write_image(path: Path, image: Image) -> None:
    """Writes an image file (.jpg, .png, ...) of an RGB image (height, width, 3); a JPEG of quality 95.

    Raises:
        OSError: it cannot be written; the message names it.

    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    with naming(path):
        path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].tobytes())


def image_folder(folder: Path) -> Path:
    """Where the images of a sequence lie: in its folder `img` if it has one, as data sets do, else in itself."""
    inner = folder / "img"
    return inner if inner.is_dir() else folder


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
