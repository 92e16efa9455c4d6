"""The three token categories and the order in which every kernel visits them."""

import enum

import torch
from torch import Tensor


class Category(enum.IntEnum):
    """What a token is, as stored in the (B, N) uint8 category vector.

    Only pairs of a T and an S token are blocked, in both directions:

    ========= =========================================== ==============
    category  who                                         attends to
    ========= =========================================== ==============
    ``T = 0`` every template token                        T, A
    ``S = 1`` search tokens kept away from the template   S, A
    ``A = 2`` search tokens that may meet the template    T, S, A
    ========= =========================================== ==============
    """

    T = 0
    S = 1
    A = 2


#: In a category vector, a token that is nobody: no token attends to it, its rows of every result are zero. It has no
#: column in a policy.
PADDING = 3

# Position of each in the order T | A | S | padding, where the keys that any category attends to are one range.
_RANK = (0, 2, 1, 3)


def _known(categories: Tensor) -> Tensor:
    """The categories, with A in place of values that are none."""
    return categories.masked_fill(categories > PADDING, Category.A)


def category_order(categories: Tensor) -> tuple[Tensor, Tensor]:
    """Stable order of the tokens by category: T | A | S, and padding behind them.

    With n tokens that count the keys of a T query are [0, nT + nA), those of an A query [0, n), those of an S query
    [nT, n).

    Args:
        categories: (B, N) uint8, on any device. A value above 3 counts as A.

    Returns:
        order: (B, N) int64; ``order[b, r]`` is the index of the token at rank r.
        counts: (B, 3) int64; the number of T, A and S tokens, in that order.

    """
    rank = torch.tensor(_RANK, dtype=torch.int64, device=categories.device)[_known(categories).long()]
    counts = torch.stack([(rank == r).sum(-1) for r in range(3)], dim=-1)
    return rank.argsort(dim=-1, stable=True), counts


def one_hot(categories: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The policy that stands for `categories`: (B, N) uint8 to (B, N, 3) of `dtype`, columns T, S, A; 0 for padding."""
    columns = torch.arange(len(Category), dtype=torch.uint8, device=categories.device)
    return (_known(categories).unsqueeze(-1) == columns).to(dtype)
