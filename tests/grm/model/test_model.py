"""The model against its equations, in every variant; its implementations against each other; what else it promises."""

import pytest
import torch

from grm.config import load_config
from grm.model import GRM, decode_boxes
from grm.model.encoder import DropPath, patch_coverage
from grm.model.head import HeadMaps
from grm_kernels import Category

from .equations import predict
from .small import division_parameters, images, small_config, small_model

MAPS = ("boxes", "score_map", "size_map", "offset_map")

INFERENCE = {
    "grm": (),
    "threshold": ("division.threshold=0.3",),
    "ratio": ("division.ratio=0.3",),
    "all of it": ("division.ratio=1",),
    "ratios": ("division.ratio=0.3", "division.ratios={2: 0.7, 4: 0}"),
    "ratio of one layer": ("division.ratios={3: 0.5}",),
    "minimum": ("division.ratio=0.4", "division.ratio_rule=minimum"),
    "minimum with a threshold": (
        "division.ratios={2: 0.9, 3: 0.2}",
        "division.ratio_rule=minimum",
        "division.threshold=0.6",
    ),
    "average": ("division.pooling=average",),
    "layers": ("division.layers=[1, 3]",),
    "two-stream": ("division.variant=two_stream",),
    "one-stream": ("division.variant=one_stream",),
    "ts": ("division.variant=ts",),
    "ts threshold": ("division.variant=ts", "division.threshold=0.6"),
    "tsa": ("division.variant=tsa",),
    "ranked": ("division.variant=ranked", "division.ratio=0.5"),
    "ranked band": ("division.variant=ranked", "division.ratio=0.5", "division.band=0.3"),
    "ranked ratios": ("division.variant=ranked", "division.ratio=0.5", "division.ratios={3: 0.2}"),
    "ranked band at the end": ("division.variant=ranked", "division.ratio=0.1", "division.band=0.5"),
    "fixed": ("division.fixed={2: S, 4: A}",),
    "soft": ("division.soft=true",),
    "soft tsa": ("division.soft=true", "division.variant=tsa"),
    "soft regions": ("division.soft=true", "division.region=2"),
    "soft, one region": ("division.soft=true", "division.region=4", "division.variant=tsa"),
    "epsilon": ("encoder.attention=masked", "encoder.epsilon=0.05"),
    "epsilon, fixed": ("encoder.attention=masked", "encoder.epsilon=0.05", "division.fixed={2: S}"),
}
TRAINING = {
    name: INFERENCE[name]
    for name in [*"grm average ts tsa soft fixed layers epsilon".split(), "ranked band", "soft regions"]
}


def variants(table):
    return pytest.mark.parametrize("overrides", table.values(), ids=table.keys())


def categories_of(prediction):
    return [None if d.categories is None else d.categories.tolist() for d in prediction.divisions]


@variants(INFERENCE)
def test_inference_is_what_the_equations_say(overrides):
    model = small_model(*overrides).double()
    template, search = images(dtype=torch.float64)
    expected = predict(model.state_dict(), model.config, template, search)
    actual = model(template, search)
    for name in MAPS:
        torch.testing.assert_close(getattr(actual, name), expected[name], rtol=1e-9, atol=1e-9)
    assert categories_of(actual) == [None if c is None else c.tolist() for c in expected["categories"]]


@variants(TRAINING)
def test_training_is_what_the_equations_say(overrides):
    model = small_model(*overrides).double().train()
    template, search = images(dtype=torch.float64)

    def loss_of(boxes, score_map, policies):
        return (boxes**2).sum() + (score_map**2).sum() + sum((p[..., 2].mean() - 0.3) ** 2 for p in policies)

    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    leaves = {
        name: state[name].requires_grad_() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    torch.manual_seed(5)
    expected = predict(state, model.config, template, search, training=True)
    learnt = [p[:, model.config.template_tokens :] for p in expected["policies"] if p.requires_grad]
    loss = loss_of(expected["boxes"], expected["score_map"], learnt)
    gradients = torch.autograd.grad(loss, leaves.values(), allow_unused=True)

    torch.manual_seed(5)
    actual = model(template, search)
    policies = [d.policy for d in actual.divisions if d.policy is not None]
    assert len(policies) == len(learnt)
    loss_of(actual.boxes, actual.score_map, policies).backward()

    torch.testing.assert_close(actual.boxes, expected["boxes"], rtol=1e-9, atol=1e-9)
    assert categories_of(actual) == [None if c is None else c.tolist() for c in expected["categories"]]
    for name, gradient in zip(leaves, gradients, strict=True):
        actual_gradient = model.get_parameter(name).grad
        if gradient is None:
            assert actual_gradient is None, name
        else:
            torch.testing.assert_close(
                actual_gradient, gradient, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_layers_of_every_variant_do_what_their_table_says():
    hard = [name for name in INFERENCE if "soft" not in name]
    predictions = {name: small_model(*INFERENCE[name])(*images()) for name in hard}
    found = {name: [set(d.categories.flatten().tolist()) for d in p.divisions] for name, p in predictions.items()}
    t, s, a = Category
    assert found["two-stream"] == [{s}, {s}, {s}, {a}]
    assert found["one-stream"] == [{a}, {a}, {a}, {a}]
    assert found["grm"] == [{a}, {s, a}, {s, a}, {s, a}]
    assert found["ts"] == [{a}, {t, s}, {t, s}, {t, s}]
    assert found["tsa"][0] == {a}
    assert set.union(*found["tsa"][1:]) == {t, s, a}
    assert found["ranked band"] == [{a}, {t, s, a}, {t, s, a}, {t, s, a}]
    shares = [(d.categories == t).float().mean().item() for d in predictions["ranked ratios"].divisions]
    assert shares == [0, 8 / 16, 3 / 16, 8 / 16]
    assert found["layers"] == [{s, a}, {a}, {s, a}, {a}]
    assert found["fixed"] == [{a}, {s}, {s, a}, {a}]


def test_search_tokens_kept_away_in_every_layer_know_nothing_of_the_template():
    apart = small_model("division.layers=[1, 2, 3, 4]", "division.fixed={1: S, 2: S, 3: S, 4: S}")
    template, search = images()
    assert torch.equal(apart(template, search).score_map, apart(-template, search).score_map)
    two_stream = small_model("division.variant=two_stream")
    assert not torch.equal(two_stream(template, search).score_map, two_stream(-template, search).score_map)


@pytest.mark.parametrize("attention", ["fused", "masked", "separate"])
@pytest.mark.parametrize("variant", ["grm", "two-stream", "one-stream", "ts", "fixed"])
def test_implementations_agree(attention, variant):
    template, search = images()
    exact = small_model(*INFERENCE[variant]).double()(template.double(), search.double())
    eager = small_model(*INFERENCE[variant], "encoder.backend=reference")(template, search)
    actual = small_model(*INFERENCE[variant], f"encoder.attention={attention}")(template, search)
    assert categories_of(actual) == categories_of(exact)
    for name in MAPS:
        assert_errs_little(getattr(actual, name), getattr(eager, name), getattr(exact, name))


def test_every_backend_agrees(backend):
    template, search = (image.to(backend.device) for image in images())
    exact = small_model().double().to(backend.device)(template.double(), search.double())
    eager = small_model("encoder.backend=reference").to(backend.device)(template, search)
    actual = small_model(f"encoder.backend={backend.name}").to(backend.device)(template, search)
    assert categories_of(actual) == categories_of(exact)
    for name in MAPS:
        assert_errs_little(getattr(actual, name), getattr(eager, name), getattr(exact, name))


def assert_errs_little(actual, eager, exact):
    """At most twice what the reference errs in the same dtype, and a rounding for each of the layers."""
    largest = exact.abs().amax()
    bound = 2 * (eager - exact).abs().amax() + 4 * torch.finfo(actual.dtype).eps * largest
    assert (actual - exact).abs().amax() <= bound


def test_masked_attention_trains_alike_and_separate_refuses():
    gradients = {}
    for attention in ("fused", "masked"):
        model = small_model(f"encoder.attention={attention}").double().train()
        torch.manual_seed(5)
        prediction = model(*images(dtype=torch.float64))
        (prediction.boxes.sum() + prediction.score_map.sum()).backward()
        gradients[attention] = [p.grad for p in model.parameters()]
    for fused, masked in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(fused, masked, rtol=1e-6, atol=1e-9)
    with pytest.raises(RuntimeError, match="separate attention does not train the division"):
        small_model("encoder.attention=separate").train()(*images())


@pytest.mark.parametrize(
    "overrides", [(), ("division.variant=tsa",), ("division.soft=true",)], ids=["sa", "tsa", "soft"]
)
def test_gradients_reach_every_division_module(overrides):
    model = small_model(*overrides).train()
    torch.manual_seed(0)
    prediction = model(*images())
    prediction.score_map.sum().backward()
    parameters = division_parameters(model)
    assert len(parameters) == 3 * 6
    for name, parameter in parameters.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_supervised_only_division_is_trained_by_its_log_probabilities_alone():
    model = small_model(*INFERENCE["ranked band"]).train()
    prediction = model(*images())
    assert all((d.categories == Category.A).all() and d.policy is None for d in prediction.divisions)
    prediction.score_map.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in division_parameters(model).values())
    sum(d.log_probs[..., 0].sum() for d in prediction.divisions if d.log_probs is not None).backward()
    assert all(p.grad.any() for p in division_parameters(model).values())


def test_training_returns_what_losses_need_and_inference_nothing_more():
    model = small_model().train()
    first, *dividing = model(*images()).divisions
    assert first.log_probs is None
    assert first.policy is None
    for division in dividing:
        assert division.log_probs.shape == (3, 16, 2)
        torch.testing.assert_close(division.log_probs.exp().sum(-1), torch.ones(3, 16))
        assert torch.equal(division.policy.argmax(-1), division.categories)
        assert division.policy.requires_grad
    for division in model.eval()(*images()).divisions:
        assert division.categories.dtype == torch.uint8
        assert division.log_probs is None
        assert division.policy is None


def test_division_modules_of_fixed_layers_are_neither_run_nor_trained():
    model = small_model("division.fixed={2: S, 4: A}")
    assert set(model.state_dict()) == set(small_model().state_dict())
    for layer in (1, 3):
        division = model.encoder.layers[layer].attention.division
        assert not any(p.requires_grad for p in division.parameters())
        division.forward = None  # would fail
    model(*images())
    model.train()(*images())


def test_prepared_model_gives_the_same_and_refuses_training():
    for overrides in ((), ("encoder.stem=convolutions",)):
        model = small_model(*overrides)
        prepared = model.prepare_inference()
        expected, actual = model(*images()), prepared(*images())
        assert categories_of(actual) == categories_of(expected)
        for name in MAPS:
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in prepared.modules())
        assert not any(parameter.requires_grad for parameter in prepared.parameters())
        with pytest.raises(RuntimeError, match="cannot be trained"):
            prepared.train()
        with pytest.raises(RuntimeError, match="prepare the one it was prepared from"):
            prepared.prepare_inference()
        with pytest.raises(RuntimeError, match="give device and dtype to prepare_inference"):
            prepared.to(torch.bfloat16)
        model.train()


def test_bfloat16_gives_float32_maps():
    model = small_model().prepare_inference(dtype=torch.bfloat16)
    exact, actual = small_model()(*images()), model(*images())
    for name in MAPS:
        assert getattr(actual, name).dtype == torch.float32
        assert getattr(actual, name).isfinite().all()
    agree = [a.categories == b.categories for a, b in zip(actual.divisions, exact.divisions, strict=True)]
    assert torch.stack(agree).float().mean() > 0.9


def test_training_under_autocast_keeps_the_division_in_float32():
    model = small_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(*images())
    assert all(d.log_probs.dtype == d.policy.dtype == torch.float32 for d in prediction.divisions[1:])
    prediction.score_map.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_template_tokens_stand_for_the_template():
    model = small_model()
    template, search = images()
    tokens = model.template_tokens(template)
    assert tokens.shape == (3, 4, 32)
    assert torch.equal(model(tokens, search).boxes, model(template, search).boxes)


def test_several_targets_at_once_give_what_each_gives_alone():
    model = small_model().double()
    template, search = images(dtype=torch.float64)
    together = model(template, search)
    for i in range(3):
        alone = model(template[i : i + 1], search[i : i + 1])
        torch.testing.assert_close(alone.boxes[0], together.boxes[i])


def test_wrong_shapes_are_named():
    model = small_model()
    template, search = images()
    with pytest.raises(ValueError, match=r"search: expected images of shape \(B, 3, 64, 64\), got \(3, 3, 32, 32\)"):
        model(template, template)
    with pytest.raises(ValueError, match=r"template: expected images of shape \(B, 3, 32, 32\)"):
        model(search, search)
    with pytest.raises(
        ValueError, match=r"template: expected tokens \(3, 4, 32\) for this search, got shape \(1, 4, 32\)"
    ):
        model(model.template_tokens(template[:1]), search)


def test_window_chooses_the_cell_and_leaves_the_score():
    torch.manual_seed(0)
    score, size, offset = torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    window = torch.zeros(4, 4)
    window[1, 2] = 0.5
    boxes, scores = decode_boxes(HeadMaps(score, size, offset), window)
    assert torch.equal(scores, score[:, 0, 1, 2])
    torch.testing.assert_close(boxes[:, 0], (2 + offset[:, 0, 1, 2]) / 4)
    torch.testing.assert_close(boxes[:, 1], (1 + offset[:, 1, 1, 2]) / 4)
    assert torch.equal(boxes[:, 2:], size[:, :, 1, 2])


def test_scores_and_sizes_keep_off_zero_and_one():
    model = small_model()
    for bias, value in ((100.0, 1 - 1e-4), (-100.0, 1e-4)):
        for branch in (model.head.center, model.head.size):
            branch[4].bias.data.fill_(bias)
        prediction = model(*images())
        torch.testing.assert_close(prediction.score_map, torch.full((3, 1, 4, 4), value), rtol=0, atol=1e-7)
        torch.testing.assert_close(prediction.size_map, torch.full((3, 2, 4, 4), value), rtol=0, atol=1e-7)


def test_queries_keys_and_values_are_views_of_one_projection():
    attention = small_model().encoder.layers[0].attention
    q, k, v = attention.heads_of(torch.randn(2, 20, 32))
    assert q.shape == (2, 2, 20, 16)
    assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert q.stride(-1) == 1


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 3, 2))
    torch.testing.assert_close(out[:, 0, 0].unique(), torch.tensor([0, 1 / 0.75]))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(2, 3, 2)), torch.ones(2, 3, 2))
    rates = [layer.drop_path.probability for layer in GRM(small_config("encoder.drop_path=0.3")).encoder.layers]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_initialization():
    torch.manual_seed(0)
    model = GRM(small_config("encoder.width=128"))
    for name, parameter in model.named_parameters():
        if name.endswith("_position") or (name.startswith("encoder.layers") and parameter.dim() > 1):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.25), name
        elif name.startswith("encoder.layers") or name.startswith("encoder.norm"):
            assert torch.equal(parameter, torch.full_like(parameter, "norm" in name and name.endswith("weight"))), name
        elif name.startswith("head") and parameter.dim() > 1:
            limit = (6 / (parameter[0].numel() + parameter.shape[0] * parameter[0, 0].numel())) ** 0.5
            assert parameter.abs().max() <= limit, name
            assert parameter.abs().max() > limit / 2, name


def test_tiny_preset_trains_and_predicts():
    config = load_config("grm_tiny").model
    model = GRM(config).train()
    template, search = torch.randn(2, 3, 96, 96), torch.randn(2, 3, 192, 192)
    prediction = model(template, search)
    (prediction.boxes.sum() + prediction.score_map.sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    prediction = model.prepare_inference(dtype=torch.bfloat16)(template, search)
    assert prediction.boxes.shape == (2, 4)
    assert prediction.size_map.shape == (2, 2, 12, 12)
    assert [d.categories.shape for d in prediction.divisions] == [(2, 144)] * 8


def test_convolution_stem_trains():
    model = small_model("encoder.stem=convolutions").train()
    prediction = model(*images())
    assert prediction.score_map.shape == (3, 1, 4, 4)
    prediction.score_map.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.stem.parameters())


@pytest.mark.parametrize(
    "overrides", [(), ("division.ratio=0.3",), ("encoder.attention=masked",)], ids=["sa", "ratio", "masked"]
)
def test_inference_compiles_to_one_graph(overrides):
    model = small_model(*overrides, "encoder.depth=2").prepare_inference()
    template, search = images()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        expected, actual = model(template, search), compiled(template, search)
    assert categories_of(actual) == categories_of(expected)
    torch.testing.assert_close(actual.boxes, expected.boxes)


def test_the_policys_gradient_is_cut_to_the_limit_over_the_batch_size():
    generator = torch.Generator().manual_seed(5)
    x, given = torch.randn(3, 20, 32, generator=generator), torch.randn(3, 16, 3, generator=generator)

    def learnt(limit, gradient):
        module = small_model(f"division.gradient_limit={limit}").encoder.layers[1].attention.division.train()
        torch.manual_seed(6)  # the same Gumbel noise for all
        module(x).policy.backward(gradient)
        return module.first.weight.grad

    assert torch.equal(learnt(0.6, given), learnt("null", given.clamp(-0.2, 0.2)))
    assert torch.equal(learnt(30, given), learnt("null", given))
    assert not torch.equal(learnt(0.6, given), learnt("null", given))


def test_new_weights_begin_with_the_prior_score():
    torch.manual_seed(0)
    for prior, low, high in ((0.5, 0.2, 0.8), (0.01, 0.002, 0.05)):
        score = GRM(small_config(f"head.score_prior={prior}")).eval()(*images()).score_map
        assert low < score.mean() < high


def test_new_weights_for_likeness_have_keys_that_equal_queries_and_keep_the_scale():
    published, similar = (GRM(small_config(f"encoder.initialization={name}")) for name in ("published", "similarity"))
    for layer in similar.encoder.layers:
        query, key, value = layer.attention.qkv.weight.chunk(3)
        assert torch.equal(query, key) and not torch.equal(query, value)
        for linear in (layer.attention.qkv, layer.attention.projection, *layer.mlp):
            # The deviation of 1,024 draws or more is right to 1 / sqrt(2 * 1024) = 0.022 of itself; 5 of those.
            assert linear.weight.std().item() == pytest.approx(linear.in_features**-0.5, rel=0.11)
    for layer in published.encoder.layers:
        query, key, _ = layer.attention.qkv.weight.chunk(3)
        assert not torch.equal(query, key) and query.std() < 0.03


def covered_parts(box, side, parts):
    """`patch_coverage` of one box by counting 64 x 64 points in every part."""
    count, fine = side * parts, 64
    place = (torch.arange(count * fine, dtype=torch.float64) + 0.5) / (count * fine)
    x, y = ((place >= box[i] - box[i + 2] / 2) & (place <= box[i] + box[i + 2] / 2) for i in range(2))
    share = (y[:, None] & x[None]).double().view(count, fine, count, fine).mean((1, 3))
    return torch.stack(
        [
            share[row * parts : (row + 1) * parts, column * parts : (column + 1) * parts].flatten()
            for row in range(side)
            for column in range(side)
        ]
    )


def test_what_the_template_tokens_are_told_of_the_box():
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.7], [0.1, 0.9, 0.5, 0.4], [0.4, 0.3, 1e-3, 1e-3]], dtype=torch.float64)
    told = patch_coverage(boxes, 3, 4)
    for box, own in zip(boxes, told, strict=True):
        torch.testing.assert_close(own, covered_parts(box, 3, 4), rtol=0, atol=2 / 64)
    # The boxes' areas inside the image.
    torch.testing.assert_close(told.sum((1, 2)) / 144, torch.tensor([0.21, 0.35 * 0.3, 1e-6], dtype=torch.float64))


def test_the_template_box_is_read_where_the_model_has_it():
    template, search = images()
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(3, 1)
    model = small_model("template_box=true")
    wide = model(template, search, template_box=box * torch.tensor([1, 1, 2, 0.5]))
    told = model(template, search, template_box=box)
    assert not torch.equal(told.score_map, wide.score_map)
    tokens = model.template_tokens(template, box)
    assert torch.equal(model(tokens, search).score_map, told.score_map)
    for wrong in (None, box[:2]):
        with pytest.raises(ValueError, match=r"template box: expected shape \(3, 4\) with model\.template_box"):
            model(template, search, template_box=wrong)
    plain = small_model()
    assert torch.equal(plain(template, search, template_box=box).score_map, plain(template, search).score_map)
