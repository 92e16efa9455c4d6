"""Trains a small ViT that sees two images at once, which meet in a few tokens only. Nothing here is about tracking.

    python examples/two_views_vit.py [STEPS]

What the three categories mean in general: T and S are two groups of tokens that do not see each other, and tokens of A
see all and are seen by all. Here T is one image, S another, and A are eight learnt tokens. Each image is encoded as if
it were alone, but for what passes through A ("bottleneck" tokens, after Nagrani et al., NeurIPS 2021), and the answer
is read from these alone: which of the two images is brighter?
"""

import sys

import torch
from torch import Tensor, nn

from grm_kernels import Category, category_attention

SIDE, PATCH, WIDTH, HEADS, LAYERS, SHARED = 32, 8, 64, 4, 2, 8


class Layer(nn.Module):
    """A pre-norm transformer layer whose tokens attend by category."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, categories: Tensor) -> Tensor:
        """(B, N, width) to the same; categories (B, N) uint8."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, D) views
        attended = category_attention(q, k, v, categories)  # no mask, and what is blocked is skipped
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TwoViews(nn.Module):
    """Tells which of two grey images is the brighter one: (B, 1, side, side) twice to logits (B, 2)."""

    def __init__(self):
        super().__init__()
        tokens = (SIDE // PATCH) ** 2
        self.stem = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.shared = nn.Parameter(0.2 * torch.randn(SHARED, WIDTH))
        self.position = nn.Parameter(0.2 * torch.randn(2 * tokens + SHARED, WIDTH))  # says in which image, too
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.answer = nn.Linear(WIDTH, 2)
        categories = [Category.T] * tokens + [Category.S] * tokens + [Category.A] * SHARED
        self.register_buffer("categories", torch.tensor([categories], dtype=torch.uint8))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Encodes both images together and reads the answer from the shared tokens."""
        images = [self.stem(image).flatten(2).transpose(1, 2) for image in (first, second)]
        x = torch.cat([*images, self.shared.expand(len(first), -1, -1)], dim=1) + self.position
        for layer in self.layers:
            x = layer(x, self.categories.expand(len(x), -1))
        return self.answer(x[:, -SHARED:].mean(1))


def pairs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images of random brightness, and which is the brighter one: 0 or 1."""
    brightness = torch.randn(2, count, 1, 1, 1)
    first, second = brightness + torch.randn(2, count, 1, SIDE, SIDE)
    return first, second, (brightness[1] > brightness[0]).flatten().long()


def main(steps: int = 60) -> float:
    """Trains, and returns the accuracy on new pairs."""
    torch.manual_seed(0)
    model = TwoViews()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        first, second, label = pairs(64)
        loss = nn.functional.cross_entropy(model(first, second), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    first, second, label = pairs(512)
    with torch.inference_mode():
        accuracy = (model(first, second).argmax(-1) == label).float().mean().item()
    print(f"accuracy after {steps} steps: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
