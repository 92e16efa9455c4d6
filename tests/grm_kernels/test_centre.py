"""The operators of the centre head against their equations in float64."""

import pytest
import torch

from grm_kernels import centre
from tests.conftest import TRITON, marks_of

backends = pytest.mark.parametrize("backend", [pytest.param(TRITON, marks=marks_of(TRITON), id="triton")])
MARGIN = 1e-4


def make(dtype, device, channels=8, side=5, batch=2):
    """x, bias, weight, last_bias and window of `find_centre`."""
    generator = torch.Generator().manual_seed(channels + side)
    shapes = ((batch, 3 * channels, side, side), (3 * channels,), (6, channels), (6,))
    tensors = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    return *tensors, torch.rand(side, side, generator=generator).to(device)


def equation(x, bias, weight, last_bias, window):
    """In the dtype of x."""
    channels, side = x.shape[1:3]
    hidden = (x + bias[:, None, None]).clamp_min(0).unflatten(1, (3, channels // 3))
    outputs = torch.einsum("bichw,ioc->biohw", hidden, weight.unflatten(0, (3, 2))).flatten(1, 2)
    outputs = outputs + last_bias[:, None, None]
    bounded = outputs.sigmoid().clamp(MARGIN, 1 - MARGIN)
    maps = torch.cat([bounded[:, :1], bounded[:, 2:4], outputs[:, 4:]], dim=1)
    scores = maps[:, 0] if window is None else maps[:, 0] * window
    cells = [divmod(int(cell), side) for cell in scores.flatten(1).argmax(1)]
    chosen = torch.stack([maps[i, :, row, column] for i, (row, column) in enumerate(cells)])
    corners = torch.tensor([(column, row) for row, column in cells], device=x.device)
    boxes = torch.cat([(corners + chosen[:, 3:]) / side, chosen[:, 1:3]], dim=1)
    return maps, boxes, chosen[:, 0]


@backends
@pytest.mark.parametrize(("channels", "side"), [(1, 1), (8, 5), (32, 16), (21, 24)])
@pytest.mark.parametrize("windowed", [True, False], ids=["window", "no window"])
def test_is_the_equation(backend, channels, side, windowed):
    for dtype in backend.dtypes:
        *tensors, window = make(dtype, backend.device, channels, side)
        window = window if windowed else None
        exact = equation(*(tensor.double() for tensor in tensors), window)
        eager = equation(*(tensor.float() for tensor in tensors), window)  # which is what the kernel computes in
        for actual, result, rounded in zip(centre.find_centre(*tensors, window, MARGIN), exact, eager, strict=True):
            assert actual.dtype == torch.float32 and actual.shape == result.shape
            bound = 2 * (rounded - result).abs().max() + 4 * torch.finfo(torch.float32).eps * result.abs().max()
            assert (actual - result).abs().max() <= bound


@backends
def test_the_first_of_equal_cells_is_chosen_and_nan_leads(backend):
    x, bias, weight, last_bias, _ = make(torch.float32, backend.device, batch=3)
    x = torch.zeros_like(x)
    x[1, :8, 3, 1] = torch.nan  # the score's branch
    x[2] = torch.nan
    maps, boxes, scores = centre.find_centre(x, bias, weight, last_bias, None, MARGIN)
    for image, (column, row) in enumerate([(0, 0), (1, 3), (0, 0)]):
        expected = (torch.tensor([column, row], device=x.device) + maps[image, 3:, row, column]) / 5
        torch.testing.assert_close(boxes[image, :2], expected, equal_nan=True)
    assert scores.isnan().tolist() == [False, True, True]
    assert boxes.isnan().any(1).tolist() == [False, False, True]


@backends
def test_scores_and_sizes_keep_off_zero_and_one(backend):
    x, bias, weight, _, window = make(torch.float32, backend.device)
    for value, expected in ((50.0, 1 - MARGIN), (-50.0, MARGIN)):
        last_bias = torch.full((6,), value, device=x.device)
        maps, boxes, scores = centre.find_centre(x, bias, weight, last_bias, window, MARGIN)
        for result in (maps[:, :3], boxes[:, 2:], scores):
            torch.testing.assert_close(result, torch.full_like(result, expected), rtol=0, atol=1e-7)


@backends
def test_bias_and_relu_are_torchs(backend):
    for dtype in backend.dtypes:
        x, bias, *_ = make(dtype, backend.device)
        x[0, 0, 0, 0], x[1, 2, 3, 4] = torch.nan, torch.inf
        for given in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
            actual = centre.bias_relu(given, bias)
            torch.testing.assert_close(actual, (given + bias[:, None, None]).relu(), rtol=0, atol=0, equal_nan=True)
            assert actual.stride() == given.stride()


@backends
def test_any_strides(backend):
    x, *rest = make(torch.float32, backend.device)
    expected = [centre.bias_relu(x, rest[0]), *centre.find_centre(x, *rest, MARGIN)]
    wide = torch.full((2, 40, 7, 9), torch.nan, device=backend.device)
    wide[:, 3:27, 1:6, 2:7] = x
    for given in (wide[:, 3:27, 1:6, 2:7], x.contiguous(memory_format=torch.channels_last)):
        for actual, result in zip(
            [centre.bias_relu(given, rest[0]), *centre.find_centre(given, *rest, MARGIN)], expected, strict=True
        ):
            assert torch.equal(actual, result)


@backends
def test_operators(backend):
    x, bias, weight, last_bias, window = make(torch.float32, backend.device)
    torch.library.opcheck(torch.ops.grm_kernels.triton_bias_relu.default, (x, bias))
    for given in (window, None):
        arguments = (x, bias, weight, last_bias, given, MARGIN)
        torch.library.opcheck(torch.ops.grm_kernels.triton_find_centre.default, arguments)


def test_what_pytorch_serves():
    x, _, weight, *_ = make(torch.float32, "cpu")
    assert not centre.serves(x, weight)
    assert not centre.serves(x, weight, "reference")
    assert not centre.serves(x.double(), weight.double(), "triton")
    assert not centre.serves(x, weight.clone().requires_grad_(), "triton")
    assert not centre.serves(torch.empty(1, 3, 65, 65), weight, "triton")
