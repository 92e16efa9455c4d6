"""Linear layers with GELU, on pairs, and packed: against the plain formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from grm.model.linear import LinearGELU, PairLinearGELU
from grm.model.packing import PackedLinear, PackedPairLinearGELU, _can_be_packed, pack_linear_layers

from .small import small_model

# Products of some 30 terms of size 1: rounding of a few units in the last place of float32; bfloat16 rounds the result.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def skip_unless_packable(layer):
    if not _can_be_packed(layer.weight):
        pytest.skip(f"oneDNN does not pack {layer.weight.dtype} on this CPU")


def pair(layer, x, shared):
    joined = torch.cat([x, shared.unsqueeze(1).expand_as(x)], dim=-1).double()
    return F.gelu(F.linear(joined, layer.weight.double(), layer.bias.double()))


def assert_close(actual, expected, dtype):
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pair_is_a_linear_layer_on_both(dtype, packed, batch):
    torch.manual_seed(0)
    layer = PairLinearGELU(16, 8).to(dtype)
    if packed:
        skip_unless_packable(layer)
    x, shared = torch.randn(batch, 5, 16).to(dtype), torch.randn(batch, 16).to(dtype)
    with torch.no_grad():
        actual = (PackedPairLinearGELU(layer, 5) if packed else layer)(x, shared)
    assert_close(actual, pair(layer, x, shared), dtype)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_packed_layer_computes_the_same(dtype, bias, gelu):
    torch.manual_seed(0)
    layer = nn.Linear(32, 24, bias=bias, dtype=dtype)
    skip_unless_packable(layer)
    x = torch.randn(2, 7, 64, dtype=dtype)[..., ::2]  # not contiguous
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        actual = PackedLinear(layer.weight, layer.bias, 14, gelu)(x)
    assert_close(actual, F.gelu(expected) if gelu else expected, dtype)


def test_every_layer_is_packed():
    model = small_model()
    pack_linear_layers(model, 20)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())


def test_what_cannot_be_packed_stays():
    model = small_model().double()
    pack_linear_layers(model, 20)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert isinstance(model.encoder.layers[0].mlp[0], LinearGELU)
