"""Small inputs of the tracking commands."""

import cv2
import numpy as np
import pytest

from grm.media.writer import VideoWriter
from grm.model import save_weights

from ..model.small import small_model
from ..tracking.scenes import noise_frames


@pytest.fixture
def weights(tmp_path):
    save_weights(small_model(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    for index, frame in enumerate(noise_frames(6)):
        cv2.imwrite(str(path / f"{index}.png"), frame[..., ::-1])
    return path


@pytest.fixture
def clip(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for frame in np.repeat(noise_frames(6), 10, axis=0):
            writer.write(frame)
    return tmp_path / "clip.mp4"
