"""Pictures and videos that are damaged: read, or refused in one line."""

import cv2
import numpy as np
from hypothesis import strategies as st

from grm.errors import MediaError
from grm.media.frames import open_frames
from grm.media.images import MAX_PIXELS, read_image_warned

from ..grm.media.test_images import picture
from ..grm.media.test_video import numbered_frames, write
from .effort import damaged, fuzzed

PICTURES = {
    "baseline": cv2.imencode(".jpg", picture())[1].tobytes(),
    "progressive": cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "png": cv2.imencode(".png", picture())[1].tobytes(),
    "deep": cv2.imencode(".png", picture().astype(np.uint16) * 16)[1].tobytes(),
    "bmp": cv2.imencode(".bmp", picture())[1].tobytes(),
    "webp": cv2.imencode(".webp", picture())[1].tobytes(),
    "tiff": cv2.imencode(".tiff", picture())[1].tobytes(),
}
VIDEOS = {}


def video(folder, suffix):
    if suffix not in VIDEOS:
        VIDEOS[suffix] = write(folder / f"whole{suffix}", numbered_frames(25)).read_bytes()
    return VIDEOS[suffix]


@fuzzed(60, 2000, kind=st.sampled_from(sorted(PICTURES)), data=st.data())
def check_damaged_pictures(kind, data):
    path = check_damaged_pictures.folder / "x"
    path.write_bytes(damaged(data.draw, PICTURES[kind]))
    try:
        image, _ = read_image_warned(path)
    except MediaError as error:
        assert "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape[2] == 3 and image.size <= 3 * MAX_PIXELS


@fuzzed(10, 300, suffix=st.sampled_from([".mp4", ".mkv", ".ts", ".avi"]), data=st.data())
def check_damaged_videos(suffix, data):
    folder = check_damaged_videos.folder
    path = folder / f"x{suffix}"
    path.write_bytes(damaged(data.draw, video(folder, suffix)))
    numbers, times = [], []
    try:
        for frame in open_frames(path).timed():
            numbers.append(frame.number)
            times.append(frame.time)
            assert frame.image.dtype == np.uint8 and frame.image.shape[2] == 3
    except MediaError as error:
        assert "\n" not in str(error)
    assert numbers == sorted(set(numbers)) and np.isfinite(times).all()
