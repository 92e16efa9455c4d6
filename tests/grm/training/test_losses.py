"""Losses against numbers worked out by hand, and the gradient of the division against the masked form's."""

import math

import pytest
import torch

from grm.config import LossConfig
from grm.model import GRM, Division, Prediction, encoder
from grm.training.losses import (
    corners,
    division_entropy,
    division_supervision,
    focal_loss,
    gaussian_radius,
    gaussian_target,
    inside_box,
    overlaps,
    training_losses,
)
from tests.grm.model.small import images, randomize, small_config

BOX = torch.tensor([[0.55, 0.4, 0.5, 0.25]])


def test_overlaps_of_boxes():
    a = torch.tensor([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 4, 4], [0, 0, 1, 1]], dtype=torch.float32)
    b = torch.tensor([[1, 1, 3, 3], [2, 0, 3, 1], [1, 1, 2, 3], [0.5, 0, 0.5, 0]])
    iou, giou = overlaps(a, b)
    # Corners that touch, 1 of 7; apart, hull of 3 with 2 in it; inside, 2 of 16; a truth that was cut to nothing.
    torch.testing.assert_close(iou, torch.tensor([1 / 7, 0, 2 / 16, 0]))
    torch.testing.assert_close(giou, torch.tensor([1 / 7 - 2 / 9, -1 / 3, 2 / 16, 0]))


def test_corners():
    assert corners(torch.tensor([0.5, 0.25, 0.2, 0.1])).tolist() == pytest.approx([0.4, 0.2, 0.6, 0.3])


@pytest.mark.parametrize(("width", "height"), [(4.0, 4.0), (7.0, 2.5), (16.0, 9.0), (0.6, 0.3)])
def test_radius_is_the_published_formula(width, height):
    # CornerNet's three cases with minimum overlap 0.7, written out; the divisions are by 2, not by 2 a.
    first = ((height + width) + math.sqrt((height + width) ** 2 - 4 * width * height * 0.3 / 1.7)) / 2
    second = (2 * (height + width) + math.sqrt(4 * (height + width) ** 2 - 16 * 0.3 * width * height)) / 2
    third = (-1.4 * (height + width) + math.sqrt((1.4 * (height + width)) ** 2 + 11.2 * 0.3 * width * height)) / 2
    radius = gaussian_radius(torch.tensor([width]), torch.tensor([height])).item()
    assert radius == pytest.approx(min(first, second, third), rel=1e-5)


def test_gaussian_target():
    # 8 x 4 of 16 cells: the third case is the smallest, (-16.8 + sqrt(282.24 + 107.52)) / 2 = 1.47; radius 1,
    # deviation 1/2.
    boxes = torch.tensor([[0.5, 0.25, 0.5, 0.25]])
    target = gaussian_target(boxes, 16)
    expected = torch.zeros(16, 16)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            expected[4 + dy, 8 + dx] = math.exp(-(dx**2 + dy**2) / (2 * 0.5**2))
    torch.testing.assert_close(target, expected[None])
    assert (target == 1).sum() == 1


def test_gaussian_rounds_its_centre_half_to_even_and_is_cut_at_the_edge():
    # Centres at cell coordinates 2.5 -> 2, 3.5 -> 4; at 16 -> outside, the tail alone remains; far outside: nothing.
    boxes = torch.tensor([[2.5, 3.5, 8, 4], [16, 8, 8, 4], [20, 8, 8, 4]]) / 16
    target = gaussian_target(boxes, 16)
    assert target[0].argmax() == 4 * 16 + 2
    assert target[1, 8, 15].item() == pytest.approx(math.exp(-2)) and target[1].max() < 1
    assert target[2].max() == 0


def test_focal_loss():
    score = torch.tensor([[[0.9, 0.2], [0.5, 0.1]]])
    target = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    expected = -(
        0.1**2 * math.log(0.9) + 0.5**4 * 0.2**2 * math.log(0.8) + 0.5**2 * math.log(0.5) + 0.1**2 * math.log(0.9)
    )
    assert focal_loss(score, target).item() == pytest.approx(expected, rel=1e-6)
    # Over the number of ones of the whole batch, and undivided where there is none.
    assert focal_loss(score.repeat(3, 1, 1), target.repeat(3, 1, 1)).item() == pytest.approx(expected, rel=1e-6)
    without = -(
        0.9**2 * math.log(0.1) + 0.5**4 * 0.2**2 * math.log(0.8) + 0.5**2 * math.log(0.5) + 0.1**2 * math.log(0.9)
    )
    target[0, 0, 0] = 0
    assert focal_loss(score, target).item() == pytest.approx(without, rel=1e-6)


def policy_of(share, tokens=8):
    policy = torch.zeros(1, tokens, 3)
    policy[..., 1] = 1
    policy[:, : int(share * tokens), 1:] = torch.tensor([0.0, 1.0])
    return policy


def test_entropy():
    divisions = (Division(None), *(Division(None, policy=policy_of(share)) for share in (0.5, 0.25, 1.0)))
    entropy = lambda p: p * math.log2(p + 1e-5) + (1 - p) * math.log2(1 - p + 1e-5)  # noqa: E731
    expected = sum(1 + entropy(p) for p in (0.5, 0.25, 1.0)) / 3
    assert division_entropy(divisions).item() == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx((0 + 0.18872 + 1) / 3, abs=1e-4)


def test_entropy_pushes_towards_half_and_half():
    policy = policy_of(0.25).requires_grad_()
    division_entropy((Division(None, policy=policy),)).backward()
    assert (policy.grad[..., 2] < 0).all() and (policy.grad[..., :2] == 0).all()


def test_cells_inside_a_box():
    # x from 0.3 to 0.8, y from 0.275 to 0.525; centres of 4 x 4 cells at 0.125, 0.375, 0.625, 0.875.
    expected = torch.zeros(1, 4, 4, dtype=torch.bool)
    expected[0, 1, 1:3] = True
    assert torch.equal(inside_box(BOX, 4), expected)


@pytest.mark.parametrize("columns", [2, 3], ids=["S or A", "S, A or T"])
def test_supervision_of_the_division(columns):
    logits = torch.randn(2, 1, 16, columns, generator=torch.Generator().manual_seed(0))
    log_probs = logits.log_softmax(-1)
    divisions = (Division(None), Division(None, log_probs[0]), Division(None, log_probs[1]))
    p_away = log_probs[..., 0].exp()
    total = 0.0
    for layer in range(2):
        for token in range(16):
            away = p_away[layer, 0, token].item()
            total -= math.log(1 - away if token in (5, 6) else away)
    assert division_supervision(divisions, BOX, 4).item() == pytest.approx(total / 32, rel=1e-5)


def test_terms_without_a_division_to_learn_are_refused():
    with pytest.raises(ValueError, match="no layer of this model has a policy"):
        division_entropy((Division(torch.zeros(1, 4, dtype=torch.uint8)),))
    with pytest.raises(ValueError, match="no layer of this model predicts one"):
        division_supervision((Division(torch.zeros(1, 4, dtype=torch.uint8)),), BOX, 2)


def model_in_training(attention, dtype):
    model = GRM(small_config(f"encoder.attention={attention}"))
    randomize(model, 3)
    return model.to(dtype).train()


def losses_of(model, dtype, weights, boxes=None):
    template, search = images(dtype=dtype)
    torch.manual_seed(11)  # the same Gumbel noise for all
    boxes = torch.tensor([[0.5, 0.4, 0.3, 0.4], [0.9, 0.2, 0.5, 0.2], [0.2, 0.7, 0.1, 0.1]]) if boxes is None else boxes
    return training_losses(model(template, search), boxes, weights)


def test_total_is_the_weighted_sum_and_the_truth_is_cut_to_the_crop():
    model = model_in_training("fused", torch.float32)
    weights = LossConfig(focal=1, giou=2, l1=5, entropy=0.3, division=0.7)
    losses = losses_of(model, torch.float32, weights)
    total = losses.focal + 2 * losses.giou + 5 * losses.l1 + 0.3 * losses.entropy + 0.7 * losses.division
    torch.testing.assert_close(losses.total, total)
    assert all(term > 0 for name, term in losses._asdict().items() if name != "iou")

    template, search = images()
    torch.manual_seed(11)
    predicted = corners(model(template, search).boxes)
    truth = torch.tensor([[0.35, 0.2, 0.65, 0.6], [0.65, 0.1, 1.0, 0.3], [0.15, 0.65, 0.25, 0.75]])
    torch.testing.assert_close(losses.l1, (predicted - truth).abs().mean())


def test_boxes_are_judged_at_the_true_centre_if_so_configured():
    # 4 x 4 cells. The score is highest in cell (0, 0); the centres of the truth are nearest to (2, 1) and, outside of
    # the map, to (4, 2), which becomes (3, 2).
    score = torch.full((2, 1, 4, 4), 0.1)
    score[:, :, 0, 0] = 0.9
    size, offset = torch.full((2, 2, 4, 4), 0.2), torch.zeros(2, 2, 4, 4)
    size[0, :, 1, 2], offset[0, :, 1, 2] = torch.tensor([0.5, 0.4]), torch.tensor([0.4, -0.2])
    size[1, :, 2, 3], offset[1, :, 2, 3] = torch.tensor([0.3, 0.2]), torch.tensor([1.0, 0.0])
    for maps in (size, offset):
        maps.requires_grad_()
    boxes = torch.tensor([[0.6, 0.2, 0.5, 0.4], [1.0, 0.5, 0.3, 0.3]])
    prediction = Prediction(torch.tensor([[0.0, 0.0, 0.2, 0.2]] * 2), score[:, 0, 0, 0], score, size, offset, ())
    losses = training_losses(prediction, boxes, LossConfig(box_cell="center"))
    # The first box is right. The second is 0.05 too low at the top and too high at the bottom, and reaches to 1.15
    # where the truth was cut at 1.
    assert losses.l1.item() == pytest.approx((0.15 + 0.05 + 0.05) / 8)
    (giou,) = (1 - overlaps(torch.tensor([[0.85, 0.4, 1.15, 0.6]]), torch.tensor([[0.85, 0.35, 1, 0.65]]))[1]).tolist()
    assert losses.giou.item() == pytest.approx(giou / 2)
    assert losses.iou == 0  # of the box at the highest score: it touches neither
    losses.total.backward()
    assert size.grad[1].nonzero()[:, 1:].unique(dim=0).tolist() == [[2, 3]]


def gradients(attention, dtype):
    """Gradients of the division modules' parameters, by layer, with every term of the loss at work."""
    model = model_in_training(attention, dtype)
    losses_of(model, dtype, LossConfig(entropy=0.1, division=0.1)).total.backward()
    layers = [layer.attention.division for layer in model.encoder.layers if layer.attention.division is not None]
    return [torch.cat([p.grad.flatten() for p in division.parameters()]).double() for division in layers]


def test_division_learns_through_the_operator_what_it_learns_through_the_mask():
    """Same weights, same noise. Exact is the masked form in float64; the operator may be as far off as twice that form
    in float32, plus four roundings: the rule of the operator's own tests, for the norm over all modules' parameters.
    (Roundings pass through the whole network: those of one module alone differ by a factor of four between instruction
    sets.)
    """
    exact, eager, fused = (
        torch.cat(gradients(attention, dtype))
        for attention, dtype in (("masked", torch.float64), ("masked", torch.float32), ("fused", torch.float32))
    )
    error, eager_error = ((gradient - exact).norm() for gradient in (fused, eager))
    assert error <= 2 * eager_error + 4 * torch.finfo(torch.float32).eps * exact.norm()


def test_without_the_policys_gradient_the_division_would_learn_something_else(monkeypatch):
    """What the test above compares is large enough to be missed."""
    expected = gradients("fused", torch.float32)
    attend = encoder.category_attention_packed
    monkeypatch.setattr(
        encoder, "category_attention_packed", lambda qkv, c, policy=None, **rest: attend(qkv, c, **rest)
    )
    for without, layer in zip(gradients("fused", torch.float32), expected, strict=True):
        assert (without - layer).norm() > 0.1 * layer.norm()
