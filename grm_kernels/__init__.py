"""Fused attention among three categories of tokens, after GRM (CVPR 2023). See `category_attention`."""

from . import counting as counting
from .attention import category_attention, category_attention_packed
from .categories import PADDING, Category, category_order
from .dispatch import explain
from .module import CategoryAttention
from .reference import masked_attention, separate_attention
from .version import __version__

__all__ = [
    "PADDING",
    "Category",
    "CategoryAttention",
    "__version__",
    "category_attention",
    "category_attention_packed",
    "category_order",
    "explain",
    "masked_attention",
    "separate_attention",
]
