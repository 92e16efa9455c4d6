"""Configuration: the presets, overrides, and what is said of a mistake."""

import itertools

import pytest
import torch

from grm.config import Config, load_config, parse_config, presets
from grm.errors import ConfigError
from grm.model import GRM


def fault(values, *overrides):
    with pytest.raises(ConfigError) as error:
        parse_config(values, overrides)
    return str(error.value)


# name: tokens of template and search region, layers, dividing layers, channels of a head, million parameters
SIZES = {
    "grm_b256": (64, 256, 12, range(2, 13), 64, 100),
    "grm_b256_got": (64, 256, 12, range(2, 13), 64, 100),
    "grm_l320": (64, 400, 24, range(2, 25), 64, 334),
    "grm_nano": (36, 144, 2, range(2, 3), 64, 0.85),
    "grm_s256": (64, 256, 12, range(2, 13), 64, 25.2),
    "grm_tiny": (36, 144, 8, range(2, 9), 64, 4.5),
    "real_tiny": (36, 144, 5, range(2, 6), 64, 3.58),
    "synthetic_tiny": (36, 144, 8, range(2, 9), 64, 4.5),
}


def test_every_preset_is_listed():
    assert presets() == sorted(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_presets(name):
    model = load_config(name).model
    with torch.device("meta"):
        parameters = sum(p.numel() for p in GRM(model).parameters()) / 1e6
    found = (
        model.template_tokens,
        model.search_side**2,
        model.encoder.depth,
        model.division_layers,
        model.encoder.width // model.encoder.heads,
    )
    assert found == (*SIZES[name][:3], tuple(SIZES[name][3]), SIZES[name][4])
    assert parameters == pytest.approx(SIZES[name][5], rel=0.02)


def test_published_training():
    b256, got, l320 = (load_config(name).training for name in ("grm_b256", "grm_b256_got", "grm_l320"))
    assert (b256.epochs, b256.milestones, b256.batch_size) == (300, (240,), 40)
    assert (got.epochs, got.milestones) == (100, (80,))
    assert (l320.batch_size, l320.clip_norm, l320.weight_decay) == (10, 0.1, 1e-4)
    assert (l320.learning_rate, l320.encoder_learning_rate) == (4e-4, 4e-5)


def test_preset_for_got10k_is_the_same_model():
    assert load_config("grm_b256_got").model == load_config("grm_b256").model


def test_defaults_are_grm_b256():
    assert Config().model == load_config("grm_b256").model
    assert (
        Config().training.model_copy(update={"pretrained": "mae_pretrain_vit_base.pth"})
        == load_config("grm_b256").training
    )
    assert parse_config(None) == Config()


def test_overrides_are_yaml_and_the_last_one_wins():
    config = load_config(
        "grm_tiny",
        [
            "model.division.threshold=0.3",
            "model.division.threshold=0.4",
            "model.division.layers=[2, 5]",
            "model.division.fixed.5=S",
            "model.encoder.attention=masked",
            "model.encoder.drop_path=1e-2",
        ],
    ).model
    assert config.division.threshold == 0.4
    assert config.division_layers == (2, 5)
    assert config.division.fixed == {5: "S"}
    assert config.encoder.attention == "masked"
    assert config.encoder.drop_path == 0.01
    assert config.encoder.width == 192


def test_overrides_leave_the_values_given_alone():
    values = {"model": {"encoder": {"depth": 3}}}
    assert parse_config(values, ["model.encoder.depth=4"]).model.encoder.depth == 4
    assert values == {"model": {"encoder": {"depth": 3}}}


def test_own_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  encoder: {width: 64, heads: 2}\n")
    assert load_config(path, ["model.encoder.depth=3"]).model.encoder.width == 64


def test_configuration_survives_json():
    config = load_config("grm_tiny", ["model.division.fixed={3: S}"])
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.encoder.widht=3",
            r"model.encoder.widht: unknown key, did you mean 'width'\?; valid here: width, depth, heads",
        ),
        ("modle.encoder.width=3", r"modle: unknown key, did you mean 'model'\?; valid here: model"),
        ("model.zzz=3", r"model.zzz: unknown key; valid here: template, search, encoder, division, head, template_box"),
        ("model.encoder.depth=many", "model.encoder.depth: input should be a valid integer.*, got 'many'"),
        ("model.encoder.depth=0", "model.encoder.depth: input should be greater than 0, got 0"),
        (
            "model.encoder.attention=fusd",
            "model.encoder.attention: input should be 'fused', 'masked' or 'separate', got 'fusd'",
        ),
        ("model.encoder.heads=7", "model.encoder.width: expected a multiple of heads = 7, got 768"),
        ("model.search.size=250", "model.search.size: expected a multiple of encoder.patch = 16, got 250"),
        (
            "model.division.layers=[2, 13]",
            r"model.division.layers: expected rising numbers from 1 to 12, got \[2, 13\]",
        ),
        ("model.division.layers=[3, 2]", r"model.division.layers: expected rising numbers from 1 to 12, got \[3, 2\]"),
        (
            "model.division.fixed={1: S}",
            r"model.division.fixed: expected layers that divide, of \[2, 3, .*12\], got \[1\]",
        ),
        ("model.division.fixed={3: T}", "model.division.fixed.3: input should be 'S' or 'A', got 'T'"),
        ("model.division.threshold=1.5", "model.division.threshold: input should be less than 1, got 1.5"),
        ("model.division.hidden=[0, 1]", r"model.division.hidden: expected widths from 1 to 8192, got \[0, 1\]"),
        ("model.division.variant=ranked", "model.division.ratio: variant ranked needs one"),
        ("model.division.band=0.1", "model.division.band: only variant ranked has one, got variant sa"),
        ("model.head.channels=20", "model.head.channels: input should be a multiple of 8, got 20"),
        ("training.milestones=[240, 80]", r"training.milestones: expected rising epochs from 1 on, got \[240, 80\]"),
        (
            "training.precision=half",
            "training.precision: input should be 'auto', 'float32', 'bfloat16' or 'float16', got 'half'",
        ),
        ("training.learning_rate=.inf", "training.learning_rate: input should be a finite number, got inf"),
        ("data.synthetic.camera=[.nan, 0, 0]", "data.synthetic.camera.0: input should be a finite number, got nan"),
        ("model.division.fixed={2: S, 2: A}", "the value is not YAML: key 2 is given twice"),
        ("model.encoder.heads=010", "model.encoder.width: expected a multiple of heads = 10, got 768"),
        ("training.epochs=1:30", "training.epochs: input should be a valid integer"),
        ("training.loss.gio=1", "training.loss.gio: unknown key, did you mean 'giou'"),
        ("model.encoder", "override 'model.encoder': expected key.sub=value"),
        ("model..width=3", "override 'model..width=3': expected key.sub=value"),
        ("model.encoder.width=[", r"override 'model.encoder.width=\[': the value is not YAML"),
        ("model.head=\x01", r"^[^\n]*the value is not YAML: special characters are not allowed$"),
        ("model.head={a: [}", r"^[^\n]*the value is not YAML: expected the node content[^\n]*, line 1, column 6$"),
        ("model.head=&a [*a]", "with its aliases it has more than 100000 keys and values"),
        ("model.head=" + 1000 * "[", "it is nested too deeply"),
        pytest.param(
            "model.head=" + 100_001 * "1", "the value is not YAML: it is longer than 100000 characters$", id="long"
        ),
        ("model.head=[" + 300 * "x, " + "]", r"^grm_b256: model.head: .{200,300}\.\.\.$"),
        ("model.encoder.width.sub=3", "override 'model.encoder.width.sub=3': width has no keys, it is 768"),
    ],
)
def test_mistakes_are_explained(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("grm_b256", [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("threshold=0.4", "ratio=0.5"), "only one of them can decide"),
        (("variant=tsa", "ratio=0.5"), "only a hard division into two"),
        (("soft=true", "threshold=0.5"), "only a hard division into two"),
        (("variant=two_stream", "layers=[2]"), "variant two_stream divides in no layer"),
        (("variant=one_stream", "soft=true"), "soft: expected variant sa, ts or tsa, got one_stream"),
        (("gradient_limit=1", "soft=true"), "only a sampled division has such a gradient"),
        (("gradient_limit=1", "variant=ranked", "ratio=0.5"), "only a sampled division has such a gradient"),
        (("threshold=0.4", "ratios={3: 0.5}"), "only one of them can decide"),
        (("variant=tsa", "ratios={3: 0.5}"), "only a hard division into two"),
        (("ratios={3: 0.5, 4: 1.5}",), "expected numbers from 0 to 1, got {4: 1.5}"),
        (("ratios={1: 0.5}",), "ratios: expected layers that divide"),
        (("ratio_rule=minimum",), "minimum: expected a ratio"),
        (("ratio_rule=minimum", "variant=ranked", "ratio=0.5"), "and a variant that decides by itself"),
        (("region=2",), "only a soft division is averaged"),
        (("region=3", "soft=true"), "expected a divisor of the search region's 16 tokens a side, got 3"),
    ],
)
def test_what_does_not_go_together(overrides, message):
    assert message in fault({}, *(f"model.division.{override}" for override in overrides))


def test_attention_must_serve_the_division():
    assert "separate attention needs decisions" in fault(
        {}, "model.division.soft=true", "model.encoder.attention=separate"
    )
    assert "only attention: fused has one" in fault({}, "model.encoder.backend=cpu", "model.encoder.attention=masked")
    for attention in ("fused", "separate"):
        epsilon = ("model.encoder.epsilon=1e-6", f"model.encoder.attention={attention}")
        assert f"attention: {attention} leaves the blocked ones out" in fault({}, *epsilon)
    assert "power of two" in fault({}, "model.encoder.stem=convolutions", "model.encoder.patch=12")


def test_a_loss_needs_something_to_learn():
    assert "variant ts chooses no A tokens" in fault({}, "training.loss.entropy=1", "model.division.variant=ts")
    for name in ("entropy", "division"):
        for nothing in ("layers=[]", "variant=one_stream"):
            if (name, nothing) != ("entropy", "variant=one_stream"):
                assert f"training.loss.{name}: no layer of this model predicts a division" in fault(
                    {}, f"training.loss.{name}=1", f"model.division.{nothing}"
                )


def test_a_limit_of_the_gradient_needs_a_loss_that_is_not_scaled():
    limit, float16 = "model.division.gradient_limit=0.1", "training.precision=float16"
    assert "float16 scales the loss" in fault({}, limit, float16)
    assert parse_config({}, [limit, "training.precision=bfloat16"]).model.division.gradient_limit == 0.1


def test_a_crop_needs_both_its_sizes():
    assert fault({}, "model.search.size=320") == "configuration: model.search.factor: field required"


def test_every_mistake_gets_a_line():
    lines = fault({"model": {"encoder": {"deepth": 3, "width": "wide"}, "head": 5}}).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("configuration: model.") for line in lines)


def test_unknown_preset_and_unreadable_files(tmp_path):
    with pytest.raises(
        ConfigError, match=r"grm_b265: no such preset, did you mean 'grm_b256(_got)?'\?; there are grm_b256, "
    ):
        load_config("grm_b265")
    with pytest.raises(ConfigError, match=r"missing.yaml: cannot be read as YAML: .*No such file"):
        load_config(tmp_path / "missing.yaml")
    path = tmp_path / "broken.yaml"
    for text, message in (("model: [", "cannot be read as YAML"), ("- a\n- b\n", "expected keys and values, got list")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(path)
    path.write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(path)
    path.write_text("#" * 100_001)
    with pytest.raises(ConfigError, match="cannot be read as YAML: it is longer than 100000 characters"):
        load_config(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"broken.yaml: expected a file, got a folder"):
        load_config(path)
    endless = tmp_path / "endless.yaml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"endless.yaml: expected a file, got a pipe or a device"):
        load_config(endless)


@pytest.mark.parametrize(("first", "inner"), [("[x]", "[{}]"), ("{k: x}", "{{<<: [{}]}}")], ids=["lists", "merged"])
def test_a_few_lines_that_stand_for_millions(tmp_path, first, inner):
    lines, path = [f"a: &a {first}"], tmp_path / "small.yaml"
    for before, name in itertools.pairwise("abcdefghij"):
        lines.append(f"{name}: &{name} {inner.format(', '.join(9 * [f'*{before}']))}")
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="with its aliases it has more than 100000 keys and values"):
        load_config(path)


def test_unknown_key_of_a_data_set_is_answered_with_the_valid_ones():
    values = {"data": {"train": {"mine": {"kind": "folder", "root": "x", "wieght": 2}}}}
    with pytest.raises(
        ConfigError, match=r"data\.train\.mine\.wieght: unknown key, did you mean 'weight'\?; valid here: kind, root"
    ):
        parse_config(values)


@pytest.mark.parametrize(
    "override",
    [
        "model.search.factor=300",
        "model.search.size=16384",
        "model.encoder.depth=1000000",
        "model.encoder.width=98304",
        "model.encoder={width: 8192, depth: 128, heads: 8}",
        "model.encoder.patch=1",
        "model.encoder.mlp_ratio=1e-9",
        "model.division.hidden=[100000, 1]",
        "model.head.channels=80000",
        "training.threads=100000",
        "training.workers=100000",
        "training.batch_size=1000000000",
        "training.seed=1000000000000000000000",
        "training.loss.l1=1e300",
        "data.synthetic.width=100000",
        "data.synthetic.camera=[1e9, 0, 0]",
        "data.synthetic.scale=1000",
        "data.synthetic.camera=[0.5, 1, 100]",
        "data.synthetic.occlusion_frames=[0, 0]",
        "data.synthetic.distractors=[0, 100000]",
        "data.jitter.scale=1000",
    ],
)
def test_what_no_machine_can_do_is_refused(override):
    with pytest.raises(ConfigError, match=r"expected|less than or equal"):
        load_config("grm_b256", [override])


def test_the_largest_published_models_are_well_within():
    vit_g = ["model.encoder.width=1408", "model.encoder.depth=40", "model.encoder.heads=16", "model.encoder.patch=14"]
    load_config("grm_b256", [*vit_g, "model.template.size=196", "model.search.size=392"])
