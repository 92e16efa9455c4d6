"""The scripts in examples/ run, and show what they say that they show."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from grm.media.frames import open_frames
from tests.grm.model.small import SMALL, small_model
from tests.grm.model.test_weights import assert_same_state, published

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def main(name):
    """What the script runs."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    # make demo runs that of the picture.
    assert {path.stem for path in EXAMPLES.glob("*.py")} - tested == {"readme_picture"}


def test_two_views_vit():
    """Half of the answers are right by chance; with 512 of them the standard error is 0.02."""
    assert main("two_views_vit")(steps=60) > 0.9


def test_track_clip(tmp_path):
    """The box of the first frame, never moved, has a mean overlap of 0.08 here."""
    assert main("track_clip")(tmp_path / "clip.mp4", frames=24) > 0.5
    assert open_frames(tmp_path / "clip.mp4").length == 23


def test_several_targets():
    """Batched products may round differently, which moves boxes by far less than a pixel."""
    assert main("several_targets")(frames=5) > 0.99


@pytest.mark.slow
def test_train_tiny(tmp_path):
    losses = main("train_tiny")(tmp_path, steps=10)
    assert losses[-1] < losses[0]
    assert (tmp_path / "weights.safetensors").is_file()


def test_published_checkpoint(tmp_path):
    model = small_model()
    torch.save({"net": published(model), "epoch": 300}, tmp_path / "GRM.pth.tar")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"model": SMALL}))
    paths = (str(tmp_path / name) for name in ("GRM.pth.tar", "small.yaml", "converted.safetensors"))
    converted = main("published_checkpoint")(*paths)
    assert converted.config == model.config
    assert_same_state(converted.state_dict(), model.state_dict())
