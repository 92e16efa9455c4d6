"""`add_layer_norm`: the operator against its equation in float64, and PyTorch where that serves."""

import pytest
import torch
import torch.nn.functional as F

from grm_kernels.normalization import add_layer_norm
from tests.conftest import TRITON, marks_of
from tests.grm_kernels.test_torch import CalledOperators

on_triton = [pytest.param(TRITON, marks=marks_of(TRITON), id="triton")]
EPSILON = 1e-6


def make(dtype, shape=(2, 5, 48), device="cpu"):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator) * 3 + 1 for _ in range(2))
    weight, bias = (torch.randn(shape[2], generator=generator) for _ in range(2))
    return [tensor.to(device, dtype) for tensor in (x, y, weight, bias)]


@pytest.mark.parametrize("backend", on_triton)
@pytest.mark.parametrize("channels", [1, 48, 768])
def test_is_the_equation(backend, channels):
    for dtype in backend.dtypes:
        x, y, weight, bias = make(dtype, (2, 5, channels), backend.device)
        total, normalised = add_layer_norm(x, y, weight, bias, EPSILON, "triton")
        assert torch.equal(total, x + y)
        s = total.double()
        exact = (s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True, correction=0) + EPSILON).sqrt()
        exact = exact * weight.double() + bias.double()
        eager = F.layer_norm(total, (channels,), weight, bias, EPSILON).double()
        bound = 2 * (eager - exact).abs().max() + 4 * torch.finfo(dtype).eps * exact.abs().max()
        assert (normalised.double() - exact).abs().max() <= bound
        assert normalised.dtype == dtype


@pytest.mark.parametrize("backend", on_triton)
def test_any_strides(backend):
    x, y, weight, bias = make(torch.float32, device=backend.device)
    expected = add_layer_norm(x, y, weight, bias, EPSILON, "triton")
    wide = torch.full((2, 9, 48), torch.nan, device=backend.device)
    wide[:, 4:] = x
    for given in (wide[:, 4:], x.transpose(1, 2).contiguous().transpose(1, 2)):
        for actual, result in zip(add_layer_norm(given, y, weight, bias, EPSILON, "triton"), expected, strict=True):
            assert torch.equal(actual, result)


@pytest.mark.parametrize("backend", on_triton)
def test_operator(backend):
    torch.library.opcheck(
        torch.ops.grm_kernels.triton_add_layer_norm.default, (*make(torch.float32, device=backend.device), EPSILON)
    )


def test_pytorch_serves_what_the_operator_does_not():
    wanted = make(torch.float32)
    wanted[2].requires_grad_()
    for arguments, backend in ((make(torch.float64), "triton"), (make(torch.float32), None), (wanted, "triton")):
        x, y, weight, bias = arguments
        with CalledOperators() as called:
            total, normalised = add_layer_norm(x, y, weight, bias, EPSILON, backend)
        assert not [name for name in called.names if "triton" in name]
        assert torch.equal(total, x + y)
        assert torch.equal(normalised, F.layer_norm(x + y, (48,), weight, bias, EPSILON))
    normalised.sum().backward()
    assert wanted[2].grad.isfinite().all()
