"""Pictures that are damaged, huge, deep, or carry more than a picture."""

import os
import random
import struct
import zlib

import cv2
import numpy as np
import pytest

from grm.errors import DamagedError, MediaError
from grm.media.frames import open_frames, readable
from grm.media.images import (
    _decoder_messages,
    _stated_size,
    deep_bits,
    read_image,
    read_image_warned,
    read_with_opacity,
)

from .test_video import collect


def picture(height=60, width=80):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def jpeg(*options, **sizes):
    return cv2.imencode(".jpg", picture(**sizes), options)[1].tobytes()


KINDS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_picture_does_no_harm(tmp_path, kind):
    """Phones append a film to a picture: more bytes than padding ever has."""
    (tmp_path / "plain.jpg").write_bytes(jpeg(*KINDS[kind]))
    (tmp_path / "moving.jpg").write_bytes(jpeg(*KINDS[kind]) + b"ftypmp42" + bytes(10_000))
    assert np.array_equal(read_image(tmp_path / "moving.jpg"), read_image(tmp_path / "plain.jpg"))
    for cut in (0.3, 0.9):
        data = jpeg(*KINDS[kind])
        (tmp_path / "cut.jpg").write_bytes(data[: int(cut * len(data))])
        with pytest.raises(MediaError, match="the JPEG is cut off"):
            read_image(tmp_path / "cut.jpg")


def test_the_end_of_a_thumbnail_is_not_that_of_the_picture(tmp_path):
    data, thumbnail = jpeg(), jpeg(height=8, width=8)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole + bytes(5000))
    assert read_image(tmp_path / "whole.jpg").shape == (60, 80, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[:-200] + bytes(5000))
    with pytest.raises(MediaError, match="the JPEG is cut off"):
        read_image(tmp_path / "cut.jpg")


def test_damage_that_a_decoder_notices_is_told(tmp_path, capfd):
    whole, chance, noticed = jpeg(height=240, width=320), random.Random(0), 0
    path = tmp_path / "x.jpg"
    path.write_bytes(whole)
    right, warned = read_image_warned(path)
    assert not warned
    for _ in range(40):
        data = bytearray(whole)
        place = chance.randrange(650, len(data) - 60)
        data[place : place + 50] = chance.randbytes(50)
        path.write_bytes(data)
        image, warned = read_image_warned(path)
        assert not (warned and np.array_equal(image, right))  # no false alarm
        noticed += warned
    assert noticed > 20
    assert "JPEG" not in capfd.readouterr().err


def test_a_damaged_picture_among_frames_is_told_at_the_end(tmp_path):
    data = jpeg(height=240, width=320)
    for name in "012":
        (tmp_path / f"{name}.jpg").write_bytes(data)
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 400 :])
    frames = []
    with pytest.raises(DamagedError, match=r"1 damaged of 3 images, first 1\.jpg"):
        collect(open_frames(tmp_path), frames)
    assert len(frames) == 3


def test_damage_is_known_of_what_was_read(tmp_path):
    """Whether the source is read to its end or left before."""
    data = jpeg(height=240, width=320)
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "2.jpg").write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 400 :])
    frames = open_frames(tmp_path)
    for limit, damage in ((2, None), (4, "1 damaged of 4 images, first 2.jpg"), (None, "1 damaged of 6 images")):
        assert len(list(readable(frames, limit))) == (limit or 6)
        assert (frames.damage is None) if damage is None else (damage in str(frames.damage))


def test_only_the_decoders_own_words_are_damage(capfd):
    """Other threads may name a folder called JPEGImages meanwhile."""
    with _decoder_messages() as messages:
        os.write(2, b"JPEGImages: 40%\nCorrupt JPEG data: bad Huffman code\n")
    assert messages == ["Corrupt JPEG data: bad Huffman code\n"]
    assert capfd.readouterr().err == "JPEGImages: 40%\n"


def test_a_length_in_a_png_takes_no_memory(tmp_path, monkeypatch):
    data = cv2.imencode(".png", picture())[1].tobytes()
    place = data.index(b"IDAT") - 4
    for broken in (data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :], data[:-30], data[:place]):
        (tmp_path / "x.png").write_bytes(broken)
        for read in (read_image, read_with_opacity):
            with pytest.raises(MediaError, match="the PNG is cut off, or a length in it is damaged"):
                read(tmp_path / "x.png")
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "imdecode", None)
            assert deep_bits(tmp_path / "x.png") is None


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".tiff", ".webp", "lossless"])
def test_a_header_is_read_as_by_the_decoder(kind):
    options = [cv2.IMWRITE_WEBP_QUALITY, 80] if kind == ".webp" else []
    data = cv2.imencode(".webp" if kind == "lossless" else kind, picture(48, 70), options)[1].tobytes()
    assert _stated_size(data) == (70, 48)
    for cut in range(40):
        _stated_size(data[:cut])


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_a_huge_picture_is_refused_by_its_header(tmp_path, kind):
    data = {
        "png": png_header(30_000, 30_000) + bytes(4) + b"IEND" + bytes(4),
        "jpeg": jpeg(),
        "bmp": b"BM" + bytes(24),
    }[kind]
    if kind == "jpeg":
        frame = data.index(b"\xff\xc0")
        data = data[: frame + 5] + struct.pack(">HH", 30_000, 30_000) + data[frame + 9 :]
    if kind == "bmp":
        data = data[:18] + struct.pack("<ii", 30_000, -30_000) + bytes(100)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(MediaError, match="30000 x 30000 pixels, expected at most 67108864 in all"):
        read_image(tmp_path / "x")


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_the_bits_that_are_used_count(tmp_path, bits):
    image = np.zeros((48, 64, 3), np.uint16)
    image[..., 0], image[..., 1] = 2**bits - 1, 2 ** (bits - 1)
    cv2.imwrite(str(tmp_path / "0.png"), image[..., ::-1])
    assert np.unique(read_image(tmp_path / "0.png").reshape(-1, 3), axis=0).tolist() == [[255, 128, 0]]
    notes = open_frames(tmp_path).notes
    assert notes == ([] if bits == 16 else [f"{tmp_path / '0.png'}: {bits} of 16 bits are used, and scaled to 8"])


def test_numbers_that_are_no_colours_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "x.tiff"), (picture() / 255).astype(np.float32))
    with pytest.raises(MediaError, match="expected numbers of 8 or 16 bits without a sign, got float32"):
        read_image(tmp_path / "x.tiff")
