"""Token division: which search tokens may meet the template (the paper's Section 3.3, its Table 4 and appendix C)."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grm_kernels import Category

from ..config import DivisionConfig
from .linear import LinearGELU, PairLinearGELU

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


class TokenDivision(nn.Module):
    """The division module of one layer: a small MLP on [search token; pooled template], and the decision.

    Args:
        width: of the tokens.
        template_tokens: how many tokens, at the front of the sequence, are the template's.
        search_tokens: how many follow.
        config: the variant, pooling and decision, as of `DivisionConfig.of_layer`.

    """

    margin: Tensor
    column_categories: Tensor
    separate: Tensor
    other: Tensor
    category_of_rank: Tensor | None

    def __init__(self, width: int, template_tokens: int, search_tokens: int, config: DivisionConfig):
        super().__init__()
        columns = COLUMNS[config.variant]
        # (The search tokens' part of the first layer could join the product for q, k, v. That was measured, and is no
        # faster on a CPU: the template tokens' share of it costs more than the call that it saves.)
        self.first = PairLinearGELU(width, config.hidden[0])
        self.second = LinearGELU(*config.hidden)
        self.third = nn.Linear(config.hidden[1], len(columns))
        self.template_tokens = template_tokens
        self.columns = columns
        self.pooling = config.pooling
        self.soft = config.soft
        self.region = config.region
        self.gradient_limit = config.gradient_limit
        self.supervised_only = config.variant == "ranked"
        #: So many tokens interact at least.
        self.at_least = int(search_tokens * (config.ratio or 0)) if config.ratio_rule == "minimum" else 0
        # P(S) < t is the same as log P(other) - log P(S) > log((1 - t) / t).
        t = config.threshold or 0.5
        self.register_buffer("margin", torch.tensor(math.log((1 - t) / t)), persistent=False)
        self.register_buffer("column_categories", torch.tensor(columns, dtype=torch.uint8), persistent=False)
        self.register_buffer("separate", self.column_categories[0].clone(), persistent=False)
        self.register_buffer("other", self.column_categories[1].clone(), persistent=False)
        self.register_buffer("category_of_rank", _category_of_rank(search_tokens, config), persistent=False)

    def forward(self, x: Tensor) -> Division:
        """Divides the search tokens of x (B, N, width), the normalised [template; search] that attention reads too."""
        logits = self.logits(x)
        if not (self.training or self.soft):
            return Division(self._decide(logits))
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

    def logits(self, x: Tensor) -> Tensor:
        """Unnormalised log-probabilities (B, search tokens, C) of the categories in `COLUMNS`."""
        template, search = x[:, : self.template_tokens], x[:, self.template_tokens :]
        pooled = template.amax(dim=1) if self.pooling == "max" else template.mean(dim=1)
        return self.third(self.second(self.first(search, pooled)))

    def _decide(self, logits: Tensor) -> Tensor:
        if len(self.columns) > 2:
            return self.column_categories[logits.argmax(-1)]
        score = logits[..., 1] - logits[..., 0]
        if self.category_of_rank is None and not self.at_least:
            return torch.where(score > self.margin, self.other, self.separate)
        order = score.argsort(dim=-1, descending=True, stable=True)
        if self.category_of_rank is None:
            decided = torch.where(score > self.margin, self.other, self.separate)
            best = order[:, : self.at_least]
            return decided.scatter(1, best, self.other.expand_as(best))
        categories = self.category_of_rank.expand_as(order)
        return torch.empty_like(categories, memory_format=torch.contiguous_format).scatter(1, order, categories)

    def _policy(self, columns: Tensor) -> Tensor:
        by_category = dict(zip(self.columns, columns.unbind(-1), strict=True))
        absent = torch.zeros_like(columns[..., 0])
        return torch.stack([by_category.get(category, absent) for category in Category], dim=-1)


class _LimitedGradient(torch.autograd.Function):
    """A tensor as it is, with a gradient whose every number is cut to [-limit, limit]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
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
