"""Weights: round trips, foreign files, strictness."""

import errno
import os
import pickle
import sys
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from grm.errors import ConfigError, WeightsError
from grm.model import GRM, load_model, load_pretrained_encoder, load_weights, save_weights

from .small import images, small_config, small_model


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


# --- our own files ---


@pytest.mark.parametrize("variant", ["tsa", "one_stream", "ts"])
def test_all_but_the_division_fits_a_model_of_another_variant(tmp_path, variant):
    path = tmp_path / "sa.safetensors"
    save_weights(small_model(), path)
    model = small_model(f"division.variant={variant}", seed=7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(model, path, division=False)
    saved = small_model().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if ".division." in name else saved)[name]), name
    with pytest.raises(WeightsError, match=r"of another shape: encoder\.layers"):
        load_weights(small_model("encoder.width=64"), path, division=False)


def test_round_trip_keeps_weights_and_configuration(tmp_path):
    model = small_model("division.threshold=0.3")
    save_weights(model, tmp_path / "model.safetensors", {"epoch": "7"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert not loaded.training
    assert_same_state(loaded.state_dict(), model.state_dict())
    assert torch.equal(loaded(*images()).boxes, model(*images()).boxes)
    assert os.listdir(tmp_path) == ["model.safetensors"]

    again = GRM(small_config())
    load_weights(again, tmp_path / "model.safetensors")
    assert_same_state(again.state_dict(), model.state_dict())


def test_weights_saved_in_half_precision_are_loaded_into_whole(tmp_path):
    model, path = small_model("encoder.stem=convolutions"), tmp_path / "model.safetensors"
    save_weights(model, path, dtype=torch.float16)
    rounded = {name: t.half().float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    assert_same_state(load_model(path).state_dict(), rounded)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16, torch.int64}
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}


def test_overrides_of_the_configuration_in_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(small_model(), path)
    assert load_model(path, ["model.division.threshold=0.7"]).config.division.threshold == 0.7
    assert load_model(path, ["model.division.fixed={2: A}"]).config.division.fixed == {2: "A"}
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        load_model(path, ["model.division.treshold=0.7"])
    with pytest.raises(WeightsError, match=r"missing: encoder\.layers\.4\."):
        load_model(path, ["model.encoder.depth=5"])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(small_model(), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors"):
        save_weights(small_model(seed=4), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/model\.safetensors'$"):
        save_weights(small_model(), tmp_path / "nowhere" / "model.safetensors")


def test_a_file_is_as_readable_as_others(tmp_path):
    save_weights(small_model(), tmp_path / "model.safetensors")
    (tmp_path / "other").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_prepared_models_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="save the one it was prepared from"):
        save_weights(small_model().prepare_inference(), tmp_path / "model.safetensors")


def test_files_that_are_not_ours(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not at all")
    with pytest.raises(WeightsError, match="not a safetensors file, or a broken one"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="not written by save_weights"):
        load_model(path)
    save_weights(small_model(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a safetensors file, or a broken one"):
        load_model(path)
    with pytest.raises(OSError, match="missing"):
        load_model(tmp_path / "missing.safetensors")


def test_missing_unexpected_and_misshapen_tensors_are_named_at_once(tmp_path):
    path = tmp_path / "model.safetensors"
    model = small_model()
    save_weights(model, path)
    metadata = {"format": "grm-1", "config": model.config.model_dump_json()}
    tensors = load_file(path)
    del tensors["encoder.norm.bias"]
    tensors["encoder.surplus"] = torch.zeros(1)
    tensors["head.size.4.weight"] = torch.zeros(3, 2)
    save_file(tensors, path, metadata)
    target = small_model(seed=4)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(target, path)
    assert "missing: encoder.norm.bias" in str(error.value)
    assert "unexpected: encoder.surplus" in str(error.value)
    assert "of another shape: head.size.4.weight (expected (2, 2, 1, 1), got (3, 2))" in str(error.value)
    assert_same_state(target.state_dict(), before)


# --- published checkpoints ---


def published(model):
    """The state of a model under the published names, written down from their description."""
    state = model.state_dict()
    net = OrderedDict(
        {
            "backbone.cls_token": torch.zeros(1, 1, 32),
            "backbone.pos_embed": torch.zeros(1, 197, 32),
            "backbone.pos_embed_z": state["encoder.template_position"],
            "backbone.pos_embed_x": state["encoder.search_position"],
        }
    )
    net._metadata = {"": {"version": 1}}  # as a module's state has it
    for kind in ("weight", "bias"):
        net[f"backbone.patch_embed.proj.{kind}"] = state[f"encoder.stem.{kind}"]
        net[f"backbone.norm.{kind}"] = state[f"encoder.norm.{kind}"]
        for i in range(model.config.encoder.depth):
            theirs, ours = f"backbone.blocks.{i}", f"encoder.layers.{i}"
            for a, b in (("norm1", "norm1"), ("norm2", "norm2"), ("attn.qkv", "attention.qkv"), ("mlp.fc1", "mlp.0")):
                net[f"{theirs}.{a}.{kind}"] = state[f"{ours}.{b}.{kind}"]
            net[f"{theirs}.mlp.fc2.{kind}"] = state[f"{ours}.mlp.1.{kind}"]
            net[f"{theirs}.attn.proj.{kind}"] = state[f"{ours}.attention.projection.{kind}"]
            for index, name in ((0, "first"), (2, "second"), (4, "third")) if i > 0 else ():
                net[f"{theirs}.attn.divide_predict.{index}.{kind}"] = state[f"{ours}.attention.division.{name}.{kind}"]
    for theirs, ours in (("ctr", "center"), ("offset", "offset"), ("size", "size")):
        for stage in range(1, 5):
            for kind in ("weight", "bias"):
                net[f"box_head.conv{stage}_{theirs}.0.{kind}"] = state[f"head.{ours}.{stage - 1}.convolution.{kind}"]
            for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                net[f"box_head.conv{stage}_{theirs}.1.{kind}"] = state[f"head.{ours}.{stage - 1}.norm.{kind}"]
        for kind in ("weight", "bias"):
            net[f"box_head.conv5_{theirs}.{kind}"] = state[f"head.{ours}.4.{kind}"]
    return net


def test_published_checkpoint_with_foreign_classes(tmp_path, foreign_module):
    model = small_model()
    settings, meter = foreign_module.Settings(), foreign_module.Meter(loss=torch.ones(3))
    settings.batch_size, settings.nested = 40, [foreign_module.Settings()]
    checkpoint = {"epoch": 300, "net": published(model), "settings": settings, "stats": meter, "dtype": torch.float16}
    torch.save(checkpoint, tmp_path / "GRM_ep0300.pth.tar")
    del sys.modules["foreign_trainer"]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "GRM_ep0300.pth.tar", weights_only=True)

    loaded = GRM(small_config())
    load_weights(loaded, tmp_path / "GRM_ep0300.pth.tar")
    assert_same_state(loaded.state_dict(), model.state_dict())
    assert "foreign_trainer" not in sys.modules


def test_published_checkpoint_is_read_strictly(tmp_path):
    path = tmp_path / "GRM.pth.tar"
    net = published(small_model())
    del net["backbone.blocks.2.attn.divide_predict.4.bias"]
    net["backbone.surplus"] = torch.zeros(1)
    net["box_head.conv6_ctr.weight"] = torch.zeros(1)
    net["box_head.conv5_ctr.weight"] = 3
    torch.save({"net": net}, path)
    with pytest.raises(WeightsError) as error:
        load_weights(small_model(), path)
    assert "missing: encoder.layers.2.attention.division.third.bias" in str(error.value)
    assert "unexpected: backbone.surplus, box_head.conv6_ctr.weight" in str(error.value)
    assert "head.center.4.weight (expected (1, 2, 1, 1), got int)" in str(error.value)


def test_two_layers_more_are_two_layers_of_names(tmp_path):
    torch.save({"net": published(small_model())}, tmp_path / "GRM.pth.tar")
    with pytest.raises(WeightsError, match=r"missing: encoder\.layers\.4\..* and 16 more"):
        load_weights(small_model("encoder.depth=6"), tmp_path / "GRM.pth.tar")


@pytest.mark.parametrize("content", [{"model": {}}, {"net": 3}, {"net": {3: torch.zeros(1)}}, [1, 2]], ids=str)
def test_other_checkpoints_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"not a published GRM checkpoint: expected a dictionary of tensors under 'net'"
    ):
        load_weights(small_model(), tmp_path / "other.pth")


# --- pretrained vision transformers ---


def vision_transformer(model, grid, prefix=1):
    """A checkpoint as MAE and DeiT write them, of the model's encoder, with a position embedding of a square grid."""
    net = {name.removeprefix("backbone."): t for name, t in published(model).items() if name.startswith("backbone.")}
    net = {name: t for name, t in net.items() if "pos_embed_" not in name and "divide_predict" not in name}
    net["pos_embed"] = torch.randn(1, prefix + grid * grid, 32, generator=torch.Generator().manual_seed(0))
    if prefix == 2:
        net["dist_token"] = torch.zeros(1, 1, 32)
        net["head_dist.weight"], net["head_dist.bias"] = torch.zeros(1000, 32), torch.zeros(1000)
        net["head.weight"], net["head.bias"] = torch.zeros(1000, 32), torch.zeros(1000)
    return net


@pytest.mark.parametrize("prefix", [1, 2])
def test_pretrained_encoder(tmp_path, prefix):
    source, target = small_model(), small_model(seed=4)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    net = vision_transformer(source, grid=7, prefix=prefix)
    torch.save({"model": net}, tmp_path / "vit.pth")
    load_pretrained_encoder(target, tmp_path / "vit.pth")

    image = torch.stack([net["pos_embed"][0, prefix + y * 7 : prefix + y * 7 + 7].T for y in range(7)], dim=1)
    for name, tensor in target.state_dict().items():
        if name.endswith("_position"):
            side = round(tensor.shape[1] ** 0.5)
            resized = F.interpolate(image[None], size=(side, side), mode="bicubic", align_corners=False)[0]
            rows = torch.cat([resized[:, y].T for y in range(side)])
            torch.testing.assert_close(tensor[0], rows)
        else:
            kept = name.startswith("head.") or ".division." in name
            assert torch.equal(tensor, before[name] if kept else source.state_dict()[name]), name


def test_position_embedding_of_the_same_grid_is_taken_as_it_is(tmp_path):
    net = vision_transformer(small_model(), grid=4)
    torch.save({"model": net}, tmp_path / "vit.pth")
    target = small_model(seed=4)
    load_pretrained_encoder(target, tmp_path / "vit.pth")
    assert torch.equal(target.encoder.search_position, net["pos_embed"][:, 1:])


def test_pretrained_encoders_are_read_strictly(tmp_path):
    path = tmp_path / "vit.pth"
    net = vision_transformer(small_model(), grid=7)
    del net["blocks.3.mlp.fc1.bias"]
    net["decoder_pred.bias"] = torch.zeros(3)
    net["norm.weight"] = torch.zeros(48)
    torch.save({"model": net}, path)
    with pytest.raises(WeightsError) as error:
        load_pretrained_encoder(small_model(), path)
    assert "missing: encoder.layers.3.mlp.0.bias" in str(error.value)
    assert "unexpected: decoder_pred.bias" in str(error.value)
    assert "encoder.norm.weight (expected (32,), got (48,))" in str(error.value)

    net = vision_transformer(small_model(), grid=7)
    net["pos_embed"] = net["pos_embed"][:, :-3]
    torch.save({"model": net}, path)
    with pytest.raises(WeightsError, match=r"pos_embed: expected \(1, 1 \+ a square, width\), got \(1, 47, 32\)"):
        load_pretrained_encoder(small_model(), path)
    del net["pos_embed"]
    torch.save({"model": net}, path)
    with pytest.raises(WeightsError, match=r"missing: encoder\.search_position, encoder\.template_position"):
        load_pretrained_encoder(small_model(), path)
    with pytest.raises(WeightsError, match=r"missing: .*encoder\.stem\.0\.convolution\.bias"):
        load_pretrained_encoder(small_model("encoder.stem=convolutions"), path)


def test_pretrained_weights_are_no_tracker(tmp_path):
    torch.save({"model": vision_transformer(small_model(), grid=7)}, tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="not a published GRM checkpoint"):
        load_weights(small_model(), tmp_path / "vit.pth")
