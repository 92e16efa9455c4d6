"""Models prepared for inference: the same as the ones they were prepared from, whichever way."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grm.config import load_config
from grm.model import GRM
from grm.model.head import CenterHead
from grm_kernels import category_attention, ops

from .small import images, randomize, small_model
from .test_model import INFERENCE, MAPS, categories_of, variants

# As for a GPU or for torch.compile, where the product for q, k, v makes the division's too; and as for a CPU.
packed = pytest.mark.parametrize("pack", [False, True], ids=["joined", "packed"])


@packed
@variants(INFERENCE)
def test_is_the_model_it_was_prepared_from(overrides, pack):
    model = small_model(*overrides)
    prepared = model.prepare_inference(pack=pack)
    with torch.inference_mode():
        expected, actual = model(*images()), prepared(*images())
    assert categories_of(actual) == categories_of(expected)
    for name in MAPS:
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


@packed
def test_in_other_dtypes(pack):
    model = small_model().double()
    exact = model(*images(dtype=torch.float64))
    with torch.inference_mode():
        same = model.prepare_inference(pack=pack)(*images(dtype=torch.float64))
        half = model.prepare_inference(dtype=torch.bfloat16, pack=pack)(*images())
    for name in MAPS:
        torch.testing.assert_close(getattr(same, name), getattr(exact, name), rtol=1e-9, atol=1e-9)
        assert getattr(half, name).dtype == torch.float32
    assert categories_of(same) == categories_of(exact)
    agree = [a.categories == b.categories for a, b in zip(half.divisions, exact.divisions, strict=True)]
    assert torch.stack(agree).float().mean() > 0.9


def test_layers_whose_category_is_fixed_have_no_columns_for_a_division():
    prepared = small_model("division.fixed={2: S}").prepare_inference(pack=False)
    assert [layer.attention.joined for layer in prepared.encoder.layers] == [0, 0, 12, 12]
    assert [layer.attention.qkv.out_features for layer in prepared.encoder.layers] == [96, 96, 108, 108]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_merged_branches_are_the_three(dtype):
    head = CenterHead(48, 32).to(dtype).eval()
    randomize(head, 7)
    features = torch.randn(2, 48, 5, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = head(features)
        for branch in (head.center, head.size, head.offset):
            for block in branch[:4]:
                block.fold()
        head.merge()
        actual = head(features)
    assert not list(head.named_children())[1:]
    # Sums of up to 9 x 48 products of size 1 in five layers; in float64 what is wrong is not rounding.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for got, map_ in zip(actual, expected, strict=True):
        assert got.shape == map_.shape
        torch.testing.assert_close(got, map_, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_attention_on_one_packed_projection_gives_the_bits_of_three_views(training):
    """Output and gradients, by autograd and by what torch.compile makes of it."""
    attention = small_model().encoder.layers[1].attention.train(training)
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    given = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1))

    def views(x):
        q, k, v = ops.unpack(attention.qkv(x).unflatten(2, (3, 2, 16)))
        categories, policy = attention.with_template(attention.divide(x))
        return category_attention(q, k, v, categories, policy).transpose(1, 2).reshape(2, 20, 32)

    def solve(function):
        leaf = x.clone().requires_grad_()
        torch.manual_seed(2)  # of the Gumbel noise
        out = function(leaf)
        leaves = [leaf, *attention.qkv.parameters()]
        if training:
            leaves += attention.division.parameters()
        return out, *torch.autograd.grad(out, leaves, given)

    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    expected = solve(views)
    for function in (attention, compiled):
        for actual, result in zip(solve(lambda x, f=function: f(x)[0]), expected, strict=True):
            assert torch.equal(actual, result)


def test_attention_is_exported_packed():
    attention = small_model().prepare_inference(pack=False).encoder.layers[1].attention
    x = torch.randn(2, 20, 32)
    with torch.no_grad():
        program = torch.export.export(attention, (x,))
    names = [str(node.target) for node in program.graph.nodes if "grm_kernels" in str(node.target)]
    assert names == ["grm_kernels.cpu_divide.default", "grm_kernels.cpu_forward_packed.default"]
    assert torch.equal(program.module()(x)[0], attention(x)[0])


# GRM-B256, in a width that is quick; how many operators run does not depend on it.
NARROW = ("encoder.width=48", "encoder.heads=3", "division.hidden=[16, 8]", "head.channels=16")


class Launches(TorchDispatchMode):
    """Operators that write memory of their own, which on a GPU are launches. Views are none."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        results = operator(*arguments, **(options or {}))
        given = [x for argument in arguments for x in (argument if isinstance(argument, (list, tuple)) else [argument])]
        if self._memory(results if isinstance(results, (list, tuple)) else [results]) - self._memory(given):
            self.names.append(operator._schema.name.removeprefix("aten::").removeprefix("grm_kernels::cpu_"))
        return results

    @staticmethod
    def _memory(values):
        return {x.untyped_storage().data_ptr() for x in values if isinstance(x, torch.Tensor)}


#: Operators of a frame. Each is one kernel on a GPU but for the attention (the order of the tokens, then it), the
#: division (the template's part, then the rest; ranks are a third) and a convolution (its bias).
FRAME = {
    "linear": 4 * 12,  # q, k, v with the division's columns; the output projection; the MLP's two
    "layer_norm": 2 * 12 + 1,
    "add": 2 * 12 + 1 + 1,  # the residuals, the search tokens' positions, the offset to the cell
    "forward_packed": 12,
    "divide": 11,
    "gelu": 12,
    "conv2d": 1 + 5,  # the stem, the head's three branches as one
    "relu": 4,
    "cat": 1 + 2,  # template and search tokens, the cell's x and y, the box
    "to": 1 + 1,  # of the images to bfloat16, of the maps to float32
    "sigmoid": 1,
    "clamp": 1,
    "mul": 1,  # the window
    "argmax": 1,
    "gather": 3,  # score, size, offset of the cell
    "remainder": 1,
    "floor_divide": 1,
    "div": 1,
}


def test_launches_of_a_frame_stay_down():
    """Before the division was one operator, there were 339 of the same count."""
    model = GRM(load_config("grm_b256", [f"model.{override}" for override in NARROW]).model)
    prepared = model.prepare_inference(dtype=torch.bfloat16, pack=False)
    template = torch.randn(1, 64, 48, dtype=torch.bfloat16)
    search, window = torch.randn(1, 3, 256, 256), torch.rand(16, 16)
    with torch.inference_mode(), Launches() as launches:
        prepared(template, search, window)
    assert Counter(launches.names) == FRAME
