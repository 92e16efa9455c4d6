"""Linear layers with GELU, and packed: against the plain formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from grm.model.linear import LinearGELU
from grm.model.packing import PackedLinear, _can_be_packed, pack_linear_layers

from .small import small_model

# Products of some 30 terms of size 1: rounding of a few units in the last place of float32; bfloat16 rounds the result.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def skip_unless_packable(layer):
    if not _can_be_packed(layer.weight):
        pytest.skip(f"oneDNN does not pack {layer.weight.dtype} on this CPU")


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
    assert actual.dtype == dtype
    expected = F.gelu(expected) if gelu else expected
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_every_layer_is_packed():
    model = small_model().prepare_inference()
    assert not any(isinstance(module, nn.Linear) for module in model.modules())


def test_what_cannot_be_packed_stays():
    model = small_model().double()
    pack_linear_layers(model, 20)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert isinstance(model.encoder.layers[0].mlp[0], LinearGELU)
