"""Token division: which search tokens may meet the template (the paper's Section 3.3, its Table 4 and appendix C)."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grm_kernels import Category
from grm_kernels import division as kernels

from ..config import DivisionConfig

#: What the columns of a prediction stand for. Column 0 is S in every variant.
COLUMNS: dict[str, tuple[Category, ...]] = {
    "sa": (Category.S, Category.A),
    "ts": (Category.S, Category.T),
    "tsa": (Category.S, Category.A, Category.T),
    "ranked": (Category.S, Category.T),
}


class Division(NamedTuple):
    """What one layer did with the search tokens of a batch.

    `log_probs` and `policy` are there where something is learnt or decided from them: in training in the layers that
    divide, and with the soft policy always.
    """

    #: (B, search tokens) uint8, values of `Category`; None with the soft policy.
    categories: Tensor | None
    #: (B, search tokens, C) float32 or wider: log-probabilities of the categories in `COLUMNS` of the variant.
    log_probs: Tensor | None = None
    #: (B, search tokens, 3), columns T, S, A: the straight-through one-hot that attention got, or with the soft policy
    #: the probabilities. What else is computed from it has a gradient, too.
    policy: Tensor | None = None
    #: (B, N) uint8: `categories` behind the template's, where they were made as one.
    all_categories: Tensor | None = None


class TokenDivision(nn.Module):
    """The division module of one layer: a small MLP on [search token; pooled template], and the decision.

    Args:
        width: of the tokens.
        template_tokens: how many tokens, at the front of the sequence, are the template's.
        search_tokens: how many follow.
        config: the variant, pooling and decision, as of `DivisionConfig.of_layer`.
        backend: of attention; the division's is the same, where it has it.

    """

    column_categories: Tensor
    category_of_rank: Tensor | None

    def __init__(
        self, width: int, template_tokens: int, search_tokens: int, config: DivisionConfig, backend: str | None = None
    ):
        super().__init__()
        columns = COLUMNS[config.variant]
        self.first = nn.Linear(2 * width, config.hidden[0])
        self.second = nn.Linear(*config.hidden)
        self.third = nn.Linear(config.hidden[1], len(columns))
        #: The first layer's part for the search tokens, once `take_apart` was called and no other product has it.
        self.search: nn.Module | None = None
        self._weights: kernels.DivisionWeights | None = None
        self.width, self.template_tokens = width, template_tokens
        self.columns = columns
        self.pooling = config.pooling
        self.soft = config.soft
        self.region = config.region
        self.gradient_limit = config.gradient_limit
        self.supervised_only = config.variant == "ranked"
        #: So many tokens interact at least.
        self.at_least = int(search_tokens * (config.ratio or 0)) if config.ratio_rule == "minimum" else 0
        self.backend = backend if backend in kernels.BACKENDS else None
        # P(S) < t is the same as log P(other) - log P(S) > log((1 - t) / t).
        t = config.threshold or 0.5
        self.margin = math.log((1 - t) / t)
        self.register_buffer("column_categories", torch.tensor(columns, dtype=torch.uint8), persistent=False)
        self.register_buffer("category_of_rank", _category_of_rank(search_tokens, config), persistent=False)

    def forward(self, x: Tensor, projected: Tensor | None = None) -> Division:
        """Divides the search tokens of x (B, N, width), the normalised [template; search] that attention reads too.

        `projected` is as of `logits`.
        """
        if not (self.training or self.soft):
            return self._divide(x, projected)
        logits = self.logits(x, projected)
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if self.soft:
            return Division(None, log_probs, self._policy(_regional(log_probs.exp(), self.region)))
        if self.supervised_only:
            # Nothing is decided yet: attention is global until the scores mean something.
            shape = logits.shape[:-1]
            return Division(torch.full(shape, Category.A, dtype=torch.uint8, device=logits.device), log_probs)
        sample = F.gumbel_softmax(log_probs, tau=1, hard=True)
        policy = self._policy(sample)
        if self.gradient_limit is not None:
            policy = _LimitedGradient.apply(policy, self.gradient_limit / len(policy))
        return Division(self.column_categories[sample.argmax(-1)], log_probs, policy)

    def logits(self, x: Tensor, projected: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities (B, search tokens, C) of the categories in `COLUMNS`.

        `projected` is the search tokens' part of the first layer (B, search tokens, hidden), where another product than
        that with `search` made it.
        """
        return kernels.logits(*self._inputs(x, projected), average=self.pooling == "average")

    def take_apart(self) -> None:
        """Separates the first layer's part for the search tokens, `search`, from the rest; for inference only, and for
        good. Another product may take it over.
        """
        self._weights = kernels.DivisionWeights(*(tensor.detach().contiguous() for tensor in self._whole_weights()))
        self._serve = kernels.OPERATORS[kernels.choose(self._weights, self.backend, needs_grad=False)]
        self.search = nn.Linear(self.width, self.first.out_features, bias=False, device="meta")
        self.search.weight = nn.Parameter(self.first.weight[:, : self.width].contiguous(), requires_grad=False)
        del self.first, self.second, self.third

    def _whole_weights(self) -> kernels.DivisionWeights:
        layers = (self.second.weight, self.second.bias, self.third.weight, self.third.bias)
        return kernels.DivisionWeights(self.first.weight[:, self.width :], self.first.bias, *layers)

    def _inputs(self, x: Tensor, projected: Tensor | None) -> tuple[Tensor, Tensor, kernels.DivisionWeights]:
        template, search = x[:, : self.template_tokens], x[:, self.template_tokens :]
        if self._weights is None:
            return F.linear(search, self.first.weight[:, : self.width]), template, self._whole_weights()
        if projected is None:
            assert self.search is not None  # else the product that has it gives it
            projected = self.search(search)
        return projected, template, self._weights

    def _divide(self, x: Tensor, projected: Tensor | None) -> Division:
        average = self.pooling == "average"
        projected, template, weights = self._inputs(x, projected)
        if self._weights is not None:  # what they are was asked when they were taken apart
            decision = (self.column_categories, self.category_of_rank, average, self.margin)
            categories, logits = self._serve(projected, template, *weights, *decision)
        else:
            with torch.no_grad():  # a category has no gradient
                categories, logits = kernels.divide(
                    projected,
                    template,
                    weights,
                    self.column_categories,
                    average=average,
                    margin=self.margin,
                    category_of_rank=self.category_of_rank,
                    backend=self.backend,
                )
        if self.at_least:
            categories = self._raised(categories, logits)
        return Division(categories[:, self.template_tokens :], all_categories=categories)

    def _raised(self, categories: Tensor, logits: Tensor) -> Tensor:
        """Categories (B, N) of all tokens in which `at_least` so many search tokens, those that lead most, interact."""
        lead = logits[..., 1] - logits[..., 0]
        best = lead.argsort(dim=-1, descending=True, stable=True)[:, : self.at_least] + self.template_tokens
        return categories.scatter(1, best, self.column_categories[1].expand_as(best))

    def _policy(self, columns: Tensor) -> Tensor:
        by_category = dict(zip(self.columns, columns.unbind(-1), strict=True))
        absent = torch.zeros_like(columns[..., 0])
        return torch.stack([by_category.get(category, absent) for category in Category], dim=-1)


class _LimitedGradient(torch.autograd.Function):
    """A tensor as it is, with a gradient whose every number is cut to [-limit, limit]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        """x itself."""
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of x, cut."""
        return gradient.clamp(-ctx.limit, ctx.limit), None


def _regional(probabilities: Tensor, region: int) -> Tensor:
    """Probabilities (B, F^2, C), averaged over squares of so many tokens a side, and given to each of their tokens."""
    if region == 1:
        return probabilities
    side = math.isqrt(probabilities.shape[1])
    regions = F.avg_pool2d(probabilities.transpose(1, 2).unflatten(2, (side, side)), region)
    spread = regions.repeat_interleave(region, 2).repeat_interleave(region, 3)
    return spread.flatten(2).transpose(1, 2)


def _category_of_rank(search_tokens: int, config: DivisionConfig) -> Tensor | None:
    """(search_tokens,) uint8: the category of the token with the r-th highest score; None if ranks do not decide."""
    if config.ratio is None or config.ratio_rule == "minimum":
        return None
    boundary = int(search_tokens * config.ratio)
    half_band = int(search_tokens * config.band / 2)
    ranks = torch.full((search_tokens,), Category.S, dtype=torch.uint8)
    ranks[:boundary] = COLUMNS[config.variant][1]
    ranks[max(0, boundary - half_band) : boundary + half_band] = Category.A
    return ranks
