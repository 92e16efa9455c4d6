"""The optimiser's groups and rates, the order of the samples, and one step."""

import math

import pytest
import torch
import torch._inductor.config
from torch.utils.data import default_collate

from grm.config import parse_config
from grm.errors import NonFiniteError
from grm.model import GRM
from grm.training import Processes, TrainingStep
from grm.training.optimization import learning_rate_factor, make_optimizer
from grm.training.step import brightened
from grm.training.stream import Position, Schedule, batches, make_schedule

from .pairs import SquarePairs, training_config

KINDS = ("weight", "bias")
ALONE = Processes(0, 1, torch.device("cpu"))


def make_step(*overrides, seed=0):
    config = training_config(*overrides)
    torch.manual_seed(seed)
    return TrainingStep(GRM(config.model), config, ALONE)


def make_batch(count=4, first=0):
    pairs = SquarePairs()
    pairs.set_epoch(0)
    return default_collate([pairs[i] for i in range(first, first + count)])


def test_groups_of_the_optimiser():
    config = training_config("model.division.fixed={3: S}", "training.encoder_learning_rate=1e-5")
    model = GRM(config.model)
    encoder, new = make_optimizer(model, config.training).param_groups
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [{name_of[p] for p in group["params"]} for group in (encoder, new)]
    fixed = {n for n in name_of.values() if n.startswith("encoder.layers.2.attention.division.")}
    assert len(fixed) == 6 and names[0] | names[1] == set(name_of.values()) - fixed
    assert all(n.startswith("head.") or ".division." in n for n in names[1])
    assert not any(n.startswith("head.") or ".division." in n for n in names[0])
    assert (encoder["base_lr"], new["base_lr"]) == (1e-5, 1e-3)
    assert encoder["weight_decay"] == new["weight_decay"] == config.training.weight_decay


def test_pretrained_stem_has_a_rate_of_its_own():
    """Five blocks and the depthwise filters do not learn; the projection, which is new, does as the encoder."""
    step = make_step("model.encoder.stem=efficientnet_lite0", "training.stem_learning_rate=1e-6")
    encoder, _, stem = step.optimizer.param_groups
    assert stem["base_lr"] == 1e-6
    name_of = {parameter: name for name, parameter in step.model.named_parameters()}
    before = {name: parameter.clone() for name, parameter in step.model.named_parameters()}
    names = {name_of[p].removeprefix("encoder.stem.") for p in stem["params"]}
    trained = {f"blocks.{n}.{part}.{kind}" for n in range(5, 11) for part in ("expand", "project") for kind in KINDS}
    assert names == trained
    assert {f"encoder.stem.projection.{kind}" for kind in KINDS} <= {name_of[p] for p in encoder["params"]}
    step([make_batch()], [Position(0, 0)], 10)
    learnt = {name for name, parameter in step.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {n.removeprefix("encoder.stem.") for n in learnt if ".stem.blocks." in n} == trained


def test_mean_weights():
    """By hand, over three steps; and they are part of the state."""
    step = make_step("training.average=0.3")
    mean = {name: value.clone() for name, value in step.model.state_dict().items()}
    for number, keep in enumerate((0.1, 2 / 11, 0.25)):  # (1 + step) / (10 + step), less than 0.3 so far
        step([make_batch()], [Position(number, 0)], 10)
        for name, value in step.model.state_dict().items():
            if value.is_floating_point():
                mean[name] = keep * mean[name] + (1 - keep) * value
    result = step.result.state_dict()
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(result[name], value, msg=name)
    assert not step.result.training and step.model.training
    again = make_step("training.average=0.3", seed=5)
    again.load(step.state())
    assert all(torch.equal(value, again.result.state_dict()[name]) for name, value in result.items())
    assert make_step().result.training


def test_published_schedule():
    config = parse_config({"training": {"milestones": [240, 280]}}).training
    factors = [learning_rate_factor(config, step, 10) for step in (0, 2399, 2400, 2799, 2800)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_and_cosine():
    config = parse_config({"training": {"schedule": "cosine", "warmup": 4, "epochs": 2}}).training
    factors = [learning_rate_factor(config, step, 12) for step in range(24)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert factors[4] == 1 and factors[14] == pytest.approx(0.5) and 0 < factors[23] < 0.01
    assert factors[9] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_every_sample_of_a_step_is_taken_once_whatever_the_processes():
    config = training_config("training.batch_size=3", "training.accumulate=4").training
    alone = make_schedule(config, samples=29, processes=1)
    assert (alone.epoch_steps, alone.steps) == (2, 4)
    pairs = Schedule(2, 4, config)  # 2 processes x accumulate 2, or 4 x 1: passes are the same
    for step in range(4):
        taken = [i for p in alone.positions(0, 1, step) for i in alone.indices(p)]
        assert taken == [step % 2 * 12 + i for i in range(12)]
        shared = [i for rank in range(2) for p in pairs.positions(rank, 2, step) for i in pairs.indices(p)]
        assert sorted(shared) == taken
    with pytest.raises(ValueError, match="gives 11 samples an epoch, fewer than one step takes: 12"):
        make_schedule(config, samples=11, processes=1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_stream_is_the_same_from_any_step_on(workers):
    config = training_config(f"training.workers={workers}", "training.accumulate=2").training
    schedule = make_schedule(config, 20, 1)
    whole = [b.provenance for b in batches(SquarePairs(20), schedule, 0, 1, 0, pin_memory=False)]
    assert len(whole) == schedule.steps * 2 == 8
    assert whole[4][0] == "squares epoch 1 index 0"
    resumed = [b.provenance for b in batches(SquarePairs(20), schedule, 0, 1, 3, pin_memory=False)]
    assert resumed == whole[6:]


def test_noise_is_its_own_for_every_seed_step_and_pass():
    seeds = {Position(step, number).noise_seed(seed) for step in range(5) for number in range(5) for seed in range(5)}
    assert len(seeds) == 125


def test_step_is_what_it_says():
    """Losses of the batch, their gradient clipped, AdamW's update: against the same by hand."""
    step = make_step("training.clip_norm=0.05", "training.encoder_learning_rate=1e-4")
    reference = make_step("training.clip_norm=0.05", "training.encoder_learning_rate=1e-4")
    batch, position = make_batch(), Position(0, 0)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    metrics = step([batch], [position], epoch_steps=5)

    losses, divisions = reference.losses(batch, position)
    losses.total.backward()
    norm = torch.stack([p.grad.norm() for p in reference.model.parameters()]).norm().item()
    assert metrics["total"] == losses.total.item()
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.05
    assert metrics["share_a_3"] == pytest.approx((divisions[2].categories == 2).float().mean().item())
    assert {name for name in metrics if name.startswith("share")} == {"share_a_2", "share_a_3", "share_a_4"}
    for name, parameter in reference.model.named_parameters():
        rate = 1e-4 if name.startswith("encoder.") and ".division." not in name else 1e-3
        gradient = parameter.grad * 0.05 / (norm + 1e-6)
        # AdamW's first step: the corrected moments are the gradient and its square.
        expected = before[name] * (1 - rate * 1e-4) - rate * gradient / (gradient.abs() + 1e-8)
        # AdamW divides by the gradient, so its rounding counts where that is near the 1e-8.
        torch.testing.assert_close(step.model.get_parameter(name), expected, rtol=1e-5, atol=2e-3 * rate)


def test_brightness_is_limited_and_not_rounded():
    images = torch.tensor([0, 101, 250], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    bright = brightened(images, torch.tensor([1.25, 0.5]))
    assert bright.flatten(1).tolist() == [[0, 126.25, 255], [0, 50.5, 125]]


def test_each_image_of_a_step_has_its_own_brightness():
    """Half of an even number is as exact in bytes."""
    step, batch = make_step(), make_batch()
    even = batch._replace(template=batch.template & 254, search=batch.search & 254)
    factors = torch.tensor([[0.5, 1], [1, 0.5], [0.5, 0.5], [1, 1]])
    template, search = (
        torch.where(of.view(-1, 1, 1, 1) == 0.5, images // 2, images)
        for images, of in zip((even.template, even.search), factors.unbind(1), strict=True)
    )
    expected, _ = step.losses(even._replace(template=template, search=search), Position(0, 0))
    got, _ = step.losses(even._replace(brightness=factors), Position(0, 0))
    unchanged, _ = step.losses(even, Position(0, 0))
    assert got.total == expected.total != unchanged.total


@pytest.mark.parametrize("limit", ["null", 1e-6], ids=["", "limited"])
def test_accumulation_averages_the_gradients_of_its_passes(limit):
    limit = f"model.division.gradient_limit={limit}"
    step = make_step("training.accumulate=2", "training.clip_norm=null", limit)
    own, positions = [make_batch(4, 0), make_batch(4, 4)], [Position(0, 0), Position(0, 1)]
    metrics = step(own, positions, epoch_steps=5)
    gradients = {name: p.grad.clone() for name, p in step.model.named_parameters()}
    parts = []
    for batch, position in zip(own, positions, strict=True):
        part = make_step(limit)
        losses, _ = part.losses(batch, position)
        losses.total.backward()
        parts.append((losses, part.model))
    assert metrics["total"] == pytest.approx((parts[0][0].total + parts[1][0].total).item() / 2, rel=1e-6)
    for name, gradient in gradients.items():
        first, second = (model.get_parameter(name).grad for _, model in parts)
        torch.testing.assert_close(gradient, (first + second) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(precision):
    """Its errors are at most twice those of masked attention, which is PyTorch's own products and softmax."""

    def maps(*overrides):
        step, seen = make_step("model.division.fixed={2: S, 3: A, 4: S}", *overrides), []
        step.model.register_forward_hook(lambda model, images, prediction: seen.append(prediction))
        losses, _ = step.losses(make_batch(), Position(0, 0))
        assert losses.total.dtype == torch.float32
        return seen[0].score_map.double(), seen[0].size_map.double(), seen[0].offset_map.double()

    low = f"training.precision={precision}"
    exact, fused, masked = maps(), maps(low), maps(low, "model.encoder.attention=masked")
    eps = torch.finfo(getattr(torch, precision)).eps
    for expected, actual, eager in zip(exact, fused, masked, strict=True):
        error = (actual - expected).abs().max()
        assert 0 < error <= 2 * (eager - expected).abs().max() + eps * expected.abs().max()
    step = make_step(low)
    metrics = step([make_batch()], [Position(0, 0)], epoch_steps=5)
    assert math.isfinite(metrics["total"]) and step.scaler.is_enabled() == (precision == "float16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("model.division.gradient_limit=1e-2", "model.encoder.drop_path=0.2"),
        ("model.division.variant=ranked", "model.division.ratio=0.5", "training.loss.division=1"),
    ],
    ids=["sa", "ranked"],
)
@torch._inductor.config.patch(fallback_random=True)  # noise as it is drawn without a graph
def test_compiled_step_is_the_same(overrides):
    overrides = ("training.encoder_learning_rate=1e-4", *overrides)
    eager, compiled = (make_step(*overrides, f"training.compile={c}") for c in (False, True))
    batch = make_batch()
    for number in range(2):
        expected, actual = (step([batch], [Position(number, 0)], epoch_steps=5) for step in (eager, compiled))
        assert actual == pytest.approx(expected, rel=1e-4)


def test_float16_overflow_leaves_the_step_out_and_scales_less():
    step = make_step("training.precision=float16")
    before = [p.detach().clone() for p in step.model.parameters()]
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    metrics = step([make_batch()], [Position(0, 0)], epoch_steps=5)
    assert not math.isfinite(metrics["gradient_norm"]) and math.isfinite(metrics["total"])
    assert all(torch.equal(p, b) for p, b in zip(step.model.parameters(), before, strict=True))
    assert step.scaler.get_scale() < 2.0**40


def test_float16_gradients_that_are_not_finite_at_any_scale_stop():
    step = make_step("training.precision=float16")
    step.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    step.model.head.size[-1].bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match=r"gradient_norm is (inf|nan)"):
        step([make_batch()], [Position(0, 0)], epoch_steps=5)


def test_nothing_changes_when_the_loss_is_not_finite():
    step = make_step()
    batch = make_batch()
    before = [p.detach().clone() for p in step.model.parameters()]
    with pytest.raises(NonFiniteError, match="total is nan"):
        step([batch._replace(box=batch.box * math.nan)], [Position(0, 0)], epoch_steps=5)
    assert all(torch.equal(p, b) for p, b in zip(step.model.parameters(), before, strict=True))


def test_it_learns():
    step = make_step("training.encoder_learning_rate=3e-3", "training.learning_rate=3e-3")
    batch = make_batch(8)
    ious = [step([batch], [Position(i, 0)], epoch_steps=1000)["iou"] for i in range(120)]
    first, last = sum(ious[:20]) / 20, sum(ious[-20:]) / 20
    assert last > first + 0.2, ious
