"""Models prepared for inference: the same as the ones they were prepared from, whichever way."""

import functools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grm.config import load_config
from grm.model import GRM
from grm.model.encoder import Attention
from grm.model.head import CenterHead
from grm_kernels import category_attention, ops
from tests.conftest import TRITON, WHY_NO_TRITON, marks_of

from .small import images, randomize, small_config, small_model
from .test_model import INFERENCE, MAPS, categories_of, variants

on_the_cpu = pytest.mark.skipif(TRITON.device != "cpu", reason="tries Triton's interpreter")


@pytest.fixture(params=["joined", "packed", "packed and joined"])
def prepare(request, monkeypatch):
    """Prepares as for a GPU or for torch.compile, where the product for q, k, v makes the division's too; as for a CPU;
    and as for a CPU where the division is small.
    """
    monkeypatch.setattr(Attention, "joins_cheaply", "joined" in request.param)
    return functools.partial(GRM.prepare_inference, pack="packed" in request.param)


@variants(INFERENCE)
def test_is_the_model_it_was_prepared_from(overrides, prepare):
    model = small_model(*overrides)
    prepared = prepare(model)
    with torch.inference_mode():
        expected, actual = model(*images()), prepared(*images())
    assert categories_of(actual) == categories_of(expected)
    for name in MAPS:
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_in_other_dtypes(prepare):
    model = small_model().double()
    exact = model(*images(dtype=torch.float64))
    with torch.inference_mode():
        same = prepare(model)(*images(dtype=torch.float64))
        half = prepare(model, dtype=torch.bfloat16)(*images())
    for name in MAPS:
        torch.testing.assert_close(getattr(same, name), getattr(exact, name), rtol=1e-9, atol=1e-9)
        assert getattr(half, name).dtype == torch.float32
    assert categories_of(same) == categories_of(exact)
    agree = [a.categories == b.categories for a, b in zip(half.divisions, exact.divisions, strict=True)]
    assert torch.stack(agree).float().mean() > 0.9


def test_the_product_is_joined_where_that_is_cheap():
    small = small_model().prepare_inference()
    assert [layer.attention.joined for layer in small.encoder.layers] == [0, 12, 12, 12]
    wide = GRM(small_config("encoder.width=512", "encoder.depth=2", "division.hidden=[1024, 8]")).prepare_inference()
    assert [layer.attention.joined for layer in wide.encoder.layers] == [0, 0]
    assert wide.encoder.layers[1].attention.division.search is not None


def test_layers_whose_category_is_fixed_have_no_columns_for_a_division():
    prepared = small_model("division.fixed={2: S}").prepare_inference(pack=False)
    assert [layer.attention.joined for layer in prepared.encoder.layers] == [0, 0, 12, 12]
    assert [layer.attention.qkv.out_features for layer in prepared.encoder.layers] == [96, 96, 108, 108]


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        (torch.float32, None),
        (torch.float64, None),
        pytest.param(torch.float32, "triton", marks=[*marks_of(TRITON), on_the_cpu]),
    ],
    ids=str,
)
def test_merged_branches_are_the_three(dtype, backend):
    head = CenterHead(48, 32, backend=backend).to(dtype).eval()
    randomize(head, 7)
    generator = torch.Generator().manual_seed(0)
    features, window = torch.randn(2, 48, 5, 5, dtype=dtype, generator=generator), torch.rand(5, 5, generator=generator)
    with torch.no_grad():
        maps, *expected = head(features, window)
        for branch in (head.center, head.size, head.offset):
            for block in branch[:4]:
                block.fold()
        head.merge()
        merged_maps, *actual = head(features, window)
    assert not list(head.named_children())[1:]
    # Sums of up to 9 x 48 products of size 1 in five layers; in float64 what is wrong is not rounding.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for got, result in zip([*merged_maps, *actual], [*maps, *expected], strict=True):
        assert got.shape == result.shape
        torch.testing.assert_close(got, result, rtol=tolerance, atol=tolerance)


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


# GRM-B256, in sizes that are quick; how many kernels run does not depend on them.
NARROW = (
    "template.size=32",
    "search.size=64",
    "encoder.width=48",
    "encoder.heads=3",
    "encoder.backend=triton",
    "division.hidden=[16, 8]",
    "head.channels=16",
)

#: Kernels of a frame on a GPU: torch's operators that write memory, of which a convolution adds its bias in a second
#: kernel, and Triton's.
FRAME = {
    "linear": 4 * 12,  # q, k, v with the division's columns; the output projection; the MLP's two
    "add_layer_norm_kernel": 2 * 12,  # the residuals, each with the normalisation behind it
    "layer_norm": 1,  # the first
    "forward_kernel": 12,  # attention
    "pool_kernel": 11,  # the division: the template's part,
    "divide_kernel": 11,  # and the rest
    "gelu": 12,
    "conv2d": 1 + 4,  # the stem, whose bias is in the positions; the head's three branches as one
    "bias_relu_kernel": 3,  # between them
    "centre_kernel": 1,  # behind them: the maps and the box
    "add": 1,  # the search tokens' positions
    "cat": 1,  # template and search tokens
}


class Launches(TorchDispatchMode):
    """What would be launched: torch's operators that write memory of their own, and Triton's kernels."""

    def __init__(self, monkeypatch):
        from triton.runtime import interpreter

        super().__init__()
        self.names = []
        run = interpreter.GridExecutor.__call__

        def counted(executor, *arguments, **options):
            self.names.append(executor.fn.__name__)
            return run(executor, *arguments, **options)

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        results = operator(*arguments, **(options or {}))
        given = [x for argument in arguments for x in (argument if isinstance(argument, (list, tuple)) else [argument])]
        written = self._memory(results if isinstance(results, (list, tuple)) else [results]) - self._memory(given)
        namespace, _, name = operator._schema.name.partition("::")
        if written and namespace == "aten":
            self.names += [name] * (2 if name == "conv2d" and arguments[2] is not None else 1)
        return results

    @staticmethod
    def _memory(values):
        return {x.untyped_storage().data_ptr() for x in values if isinstance(x, torch.Tensor)}


@pytest.mark.skipif(TRITON.device != "cpu" or WHY_NO_TRITON is not None, reason="counts what Triton's interpreter runs")
def test_launches_of_a_frame_stay_down(monkeypatch):
    """Counted so, there were 330 before the division was one operator."""
    model = GRM(load_config("grm_b256", [f"model.{override}" for override in NARROW]).model)
    prepared = model.prepare_inference(dtype=torch.float16, pack=False)
    template = torch.randn(1, 4, 48, dtype=torch.float16)
    search, window = torch.randn(1, 3, 64, 64, dtype=torch.float16), torch.rand(4, 4)
    with torch.inference_mode(), Launches(monkeypatch) as launches:
        prepared(template, search, window)
    assert Counter(launches.names) == FRAME
    assert sum(FRAME.values()) == 130
