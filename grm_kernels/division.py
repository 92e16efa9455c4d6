"""GRM's division module from its first product on: which category every search token is, as one operator.

With x of a search token, t of the pooled template, and weights W = [W_x W_t] of the first layer:

    h1 = GELU(W_x x + W_t t + b1),   h2 = GELU(W_2 h1 + b2),   logits = W_3 h2 + b3

W_x x is given: it reads what the projection to q, k, v reads and can be a part of that product. The compiled forms are
for inference and keep in float32 what they compute; with float64, or where a gradient is wanted, PyTorch serves.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu, ops, triton
from .categories import Category

#: Forms of the operator, and the one in PyTorch that serves everything.
BACKENDS = ("cpu", "triton", "reference")


class DivisionWeights(NamedTuple):
    """Weights (outputs, inputs) and biases (outputs,) of a division module of widths H1, H2 and K columns."""

    #: (H1, C): W_t, the part of the first layer that reads the pooled template.
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    third: Tensor
    third_bias: Tensor


def divide(
    projected: Tensor,
    template: Tensor,
    weights: DivisionWeights,
    columns: Tensor,
    *,
    average: bool = False,
    margin: float = 0.0,
    category_of_rank: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Categories of all tokens of [template; search], and the logits that they follow from.

    Args:
        projected: (B, N_search, H1), W_x x of every search token.
        template: (B, N_template, C), the tokens that are pooled; they get category T.
        weights: all of the dtype of `projected`, like `template`.
        columns: (K,) uint8, the category that each of at least two logits stands for.
        average: pool the template by its mean, not by its maximum.
        margin: with two columns, a token is of the second one if its logit leads by more than this; with more the
            largest logit decides.
        category_of_rank: (N_search,) uint8, the category of the token whose second logit leads the first by the r-th
            most; decides if given, with two columns.
        backend: "cpu", "triton" or "reference"; None takes what is compiled for the device, if it can serve.

    Returns:
        categories: (B, N_template + N_search) uint8.
        logits: (B, N_search, K), float32 or wider. They have a gradient where the reference serves, as it does
            wherever one is wanted.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend named cannot serve; says why.

    """
    _check(projected, template, weights, columns, category_of_rank)
    serve = OPERATORS[choose(weights, backend, needs_grad=ops.needs_gradient(projected, template, *weights))]
    return serve(projected, template, *weights, columns, category_of_rank, average, margin)


def choose(weights: DivisionWeights, backend: str | None, *, needs_grad: bool) -> str:
    """The backend that serves `divide` with these weights: the one named, or what is compiled for their device, if it
    can, or the reference.

    Raises:
        ValueError: the backend named cannot serve; says why.

    """
    if backend is None:  # (Triton's interpreter, which could serve on a CPU, is for tests and has to be named.)
        backend = "triton" if weights.first.device.type == "cuda" else "cpu"
        return "reference" if not_supported_reasons(backend, weights, needs_grad=needs_grad) else backend
    if reasons := not_supported_reasons(backend, weights, needs_grad=needs_grad):
        raise ValueError(f"backend: {backend!r} cannot serve: {'; '.join(reasons)}")
    return backend


def logits(projected: Tensor, template: Tensor, weights: DivisionWeights, *, average: bool = False) -> Tensor:
    """The logits (B, N_search, K) by PyTorch, in the tensors' dtype and with a gradient; arguments as of `divide`."""
    pooled = template.mean(dim=1) if average else template.amax(dim=1)
    hidden = F.gelu(projected + F.linear(pooled, weights.first, weights.first_bias).unsqueeze(1))
    hidden = F.gelu(F.linear(hidden, weights.second, weights.second_bias))
    return F.linear(hidden, weights.third, weights.third_bias)


def decide(logits: Tensor, columns: Tensor, margin: float = 0.0, category_of_rank: Tensor | None = None) -> Tensor:
    """Categories (B, N_search) uint8 that follow from logits (B, N_search, K); the rest as of `divide`."""
    if len(columns) > 2:
        return columns[logits.argmax(-1)]
    lead = logits[..., 1] - logits[..., 0]
    if category_of_rank is None:
        return torch.where(lead > margin, columns[1], columns[0])
    order = lead.argsort(dim=-1, descending=True, stable=True)
    categories = category_of_rank.expand_as(order)
    return torch.empty_like(categories, memory_format=torch.contiguous_format).scatter(1, order, categories)


def not_supported_reasons(backend: str, weights: DivisionWeights, *, needs_grad: bool) -> list[str]:
    """What keeps a backend from serving `divide` with these weights; nothing if it can."""
    if backend == "reference":
        return []
    if backend not in BACKENDS:
        return [f"expected one of {', '.join(BACKENDS)}"]
    reasons = ["has no gradient"] if needs_grad else []
    # What a backend needs of attention's tensors but for their sizes: all are served here.
    like = weights.third_bias[:1].expand(1, 1, 1, 16)
    needs = cpu if backend == "cpu" else triton
    return reasons + needs.not_supported_reasons(like, needs_grad=False)


def _reference(projected, template, *arguments) -> tuple[Tensor, Tensor]:
    *weights, columns, category_of_rank, average, margin = arguments
    scores = logits(projected, template, DivisionWeights(*weights), average=average)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    decided = decide(scores, columns, margin, category_of_rank)
    return F.pad(decided, (template.shape[1], 0), value=int(Category.T)), scores


def _check(
    projected: Tensor, template: Tensor, weights: DivisionWeights, columns: Tensor, category_of_rank: Tensor | None
) -> None:
    if projected.dim() == template.dim() == 3 and columns.dim() == 1:
        # Words for errors are found when there is one: they take as long as a small division on a CPU.
        shapes, wanted = _shapes(projected, template, weights, columns)
        dtype, device, bytes_ = projected.dtype, projected.device, torch.uint8
        alike = all(tensor.dtype == dtype and tensor.device == device for tensor in (template, *weights))
        decides = len(columns) > 1 and columns.dtype == bytes_
        if decides and category_of_rank is not None:
            rank = category_of_rank
            decides = len(columns) == 2 and rank.dtype == bytes_ and rank.shape == projected.shape[1:2]
        if shapes == wanted and alike and decides and template.shape[1] > 0:
            return
    _refuse(projected, template, weights, columns, category_of_rank)


def _shapes(projected: Tensor, template: Tensor, weights: DivisionWeights, columns: Tensor) -> tuple[list, list]:
    """The shapes of the template and the weights, and what they should be."""
    first, second, count = projected.shape[2], len(weights.second), len(columns)
    channels = template.shape[2]
    wanted = [(first, channels), (first,), (second, first), (second,), (count, second), (count,)]
    shapes = [tuple(tensor.shape) for tensor in (template, *weights)]
    return shapes, [(len(projected), *shapes[0][1:]), *wanted]


def _refuse(
    projected: Tensor, template: Tensor, weights: DivisionWeights, columns: Tensor, category_of_rank: Tensor | None
) -> None:
    """Raises what is wrong."""
    if projected.dim() != 3 or template.dim() != 3 or template.shape[1] == 0 or columns.dim() != 1 or len(columns) < 2:
        got = ", ".join(str(tuple(tensor.shape)) for tensor in (projected, template, columns))
        raise ValueError(
            f"expected projected (B, N, H1), template (B, N of 1 or more, C), columns (2 or more), got {got}"
        )
    names = ("template", *(f"weights.{name}" for name in weights._fields))
    shapes, wanted = _shapes(projected, template, weights, columns)
    for name, tensor, got, shape in zip(names, (template, *weights), shapes, wanted, strict=True):
        if got != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {got}")
        if tensor.dtype != projected.dtype or tensor.device != projected.device:
            kinds = [f"{x.dtype} on {x.device}" for x in (projected, tensor)]
            raise ValueError(f"{name}: expected {kinds[0]} as of projected, got {kinds[1]}")
    vectors = (("columns", columns, len(columns)), ("category_of_rank", category_of_rank, projected.shape[1]))
    for name, vector, size in vectors:
        if vector is not None and (vector.shape != (size,) or vector.dtype != torch.uint8):
            raise ValueError(f"{name}: expected {(size,)} of torch.uint8, got {tuple(vector.shape)} of {vector.dtype}")
    raise ValueError(f"category_of_rank: expected two columns with it, got {len(columns)}")


_SCHEMA = (
    "(Tensor projected, Tensor template, Tensor first, Tensor first_bias, Tensor second, Tensor second_bias,"
    " Tensor third, Tensor third_bias, Tensor columns, Tensor? category_of_rank, bool average, float margin)"
    " -> (Tensor categories, Tensor logits)"
)


def _fake(projected, template, first, first_bias, second, second_bias, third, third_bias, columns, *decision):
    batch, n_search, _ = projected.shape
    categories = columns.new_empty((batch, template.shape[1] + n_search))
    return categories, projected.new_empty((batch, n_search, columns.shape[0]), dtype=torch.float32)


def _triton(*args):
    from .triton import division

    return division.divide(*args)


for _backend in ("cpu", "triton"):
    ops.LIBRARY.define(f"{_backend}_divide{_SCHEMA}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"grm_kernels::{_backend}_divide", _fake, lib=ops.LIBRARY)
for _key in ("CUDA", "CPU"):
    ops.LIBRARY.impl("triton_divide", _triton, _key)

#: By backend; unchecked, arguments as the schema says.
OPERATORS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "cpu": torch.ops.grm_kernels.cpu_divide.default,
    "triton": torch.ops.grm_kernels.triton_divide.default,
    "reference": _reference,
}
