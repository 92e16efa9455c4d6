"""`CategoryAttention`: projections, category attention and the output's projection as one module."""

from torch import Tensor, nn

from .attention import category_attention, category_attention_packed


class CategoryAttention(nn.Module):
    """Self-attention of a transformer's layer, of tokens of three categories.

    A linear layer to q, k, v, `category_attention`, and a linear layer of what the heads give. Padding takes part in
    neither sum nor gradient; its rows of the output are the last layer's bias. It has to be finite here: the gradient
    of the first layer's weights multiplies it by 0.

    Args:
        width: channels of a token; `heads` divides it.
        heads: heads of q.
        kv_heads: heads of k and v, a divisor of `heads`; as many by default.
        bias: whether the linear layers have one.

    Raises:
        ValueError: the numbers do not divide each other.

    """

    def __init__(self, width: int, heads: int, *, kv_heads: int | None = None, bias: bool = True) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads: expected a divisor of {heads} heads, got {kv_heads}")
        self.heads, self.kv_heads, self.channels = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.channels, bias=bias)
        self.projection = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        categories: Tensor | None,
        policy: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        soft: bool = False,
        backend: str | None = None,
    ) -> Tensor:
        """Attends.

        Args:
            x: (B, N, width).
            categories, policy, valid, soft, backend: as for `category_attention`.

        Returns:
            (B, N, width).

        Raises:
            TypeError, ValueError: as `category_attention`; x is not of that shape.

        """
        if x.dim() != 3 or x.shape[-1] != self.heads * self.channels:
            raise ValueError(f"x: expected shape (B, N, {self.heads * self.channels}), got {tuple(x.shape)}")
        projected = self.qkv(x).unflatten(-1, (-1, self.channels))  # (B, N, heads + 2 kv_heads, D)
        if self.kv_heads == self.heads:
            packed = projected.unflatten(2, (3, self.heads))
            out = category_attention_packed(packed, categories, policy, valid=valid, soft=soft, backend=backend)
        else:
            q, k, v = projected.transpose(1, 2).split((self.heads, self.kv_heads, self.kv_heads), 1)
            out = category_attention(q, k, v, categories, policy, valid=valid, soft=soft, backend=backend)
        assert isinstance(out, Tensor)  # and no pair of it and lse
        return self.projection(out.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """Heads and channels, as `print` shows them."""
        return f"heads={self.heads}, kv_heads={self.kv_heads}, channels={self.channels}"
