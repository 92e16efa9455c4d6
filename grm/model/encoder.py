"""The encoder: a vision transformer over one sequence [template; search] whose layers divide the search tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grm_kernels import Category, category_attention_packed, explain
from grm_kernels.categories import one_hot
from grm_kernels.normalization import add_layer_norm
from grm_kernels.ops import unpack
from grm_kernels.reference import masked_attention, separate_attention

from ..config import EncoderConfig, ModelConfig
from ..errors import ConfigError
from .convolution import ConvolutionBlock
from .division import Division, TokenDivision
from .efficientnet import EfficientNetStem
from .linear import LinearGELU

NORM_EPSILON = 1e-6
# What a template token is told of its box: how much of each of so many parts of its patch, in x and in y, is covered.
_COVERED_PARTS = 4


class Encoder(nn.Module):
    """Stem, position embeddings, layers and the final normalisation.

    Args:
        config: of the whole model; sizes of the images included.

    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        encoder = config.encoder
        n_template, n_search = config.template_tokens, config.search_side**2
        self.stem = _stem(encoder)
        self.template_position = nn.Parameter(torch.empty(1, n_template, encoder.width))
        self.search_position = nn.Parameter(torch.empty(1, n_search, encoder.width))
        self.template_side, self.template_size = config.template.size // encoder.patch, config.template.size
        self.template_box = nn.Linear(_COVERED_PARTS**2, encoder.width) if config.template_box else None
        self.layers = nn.ModuleList(Layer(config, number) for number in range(1, encoder.depth + 1))
        self.norm = nn.LayerNorm(encoder.width, eps=NORM_EPSILON)
        self.apply(_initialize)
        if encoder.initialization == "similarity":
            self.layers.apply(_initialize_similar)
        for position in (self.template_position, self.search_position):
            nn.init.trunc_normal_(position, std=0.02)

    def template_tokens(self, template: Tensor, box: Tensor | None = None) -> Tensor:
        """Tokens (B, N_template, width) of template images (B, 3, h, w), positions added.

        With `ModelConfig.template_box` the target's boxes (B, 4) are told, in sides of the image as `HeadMaps` are.
        """
        tokens = self._embed(template) + self.template_position
        if self.template_box is None:
            return tokens
        # Labels count centres in indices of pixels, not from their edges.
        edges = box.float() + box.new_tensor([0.5, 0.5, 0, 0]) / self.template_size
        covered = patch_coverage(edges, self.template_side, _COVERED_PARTS)
        return tokens + self.template_box(covered.to(tokens.dtype))

    def search_tokens(self, search: Tensor) -> Tensor:
        """Tokens (B, N_search, width) of search images (B, 3, H, W), positions added."""
        return self._embed(search) + self.search_position

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, tuple[Division, ...]]:
        """Relates tokens: (B, N_template, width) and (B, N_search, width) to features of the search region.

        Returns:
            features: (B, N_search, width), normalised.
            divisions: what each layer did, first to last.

        """
        x = torch.cat([template, search], dim=1)
        divisions = []
        # A layer's last sum and the next one's first normalisation are one step.
        norms = [layer.norm1 for layer in self.layers] + [self.norm]
        normalised = norms[0](x)
        for layer, following in zip(self.layers, norms[1:], strict=True):
            x, normalised, division = layer(x, normalised, following)
            divisions.append(division)
        return normalised, tuple(divisions)

    def fold(self) -> None:
        """Puts the bias of the stem's last convolution into the positions; for inference only, and for good."""
        last = self.stem[-1] if isinstance(self.stem, nn.Sequential) else self.stem
        if isinstance(last, nn.Conv2d) and last.bias is not None:
            for position in (self.template_position, self.search_position):
                position += last.bias
            last.bias = None

    def _embed(self, image: Tensor) -> Tensor:
        return self.stem(image.to(self.search_position.dtype)).flatten(2).transpose(1, 2)


class Layer(nn.Module):
    """One pre-norm transformer layer; the last one gives the search tokens only, as nothing reads the template's.

    `norm1` is applied before, with the sum that ends the layer before.

    Args:
        config: of the whole model.
        number: of the layer, counted from 1.

    """

    def __init__(self, config: ModelConfig, number: int):
        super().__init__()
        encoder = config.encoder
        self.norm1 = nn.LayerNorm(encoder.width, eps=NORM_EPSILON)
        self.attention = Attention(config, number)
        self.norm2 = nn.LayerNorm(encoder.width, eps=NORM_EPSILON)
        hidden = int(encoder.width * encoder.mlp_ratio)
        self.mlp = nn.Sequential(LinearGELU(encoder.width, hidden), nn.Linear(hidden, encoder.width))
        self.drop_path = DropPath(encoder.drop_path * (number - 1) / max(1, encoder.depth - 1))
        self.first_token_kept = config.template_tokens if number == encoder.depth else 0

    def forward(self, x: Tensor, normalised: Tensor, following: nn.LayerNorm) -> tuple[Tensor, Tensor, Division]:
        """Relates tokens (B, N, width), given with the result of `norm1`.

        Returns:
            x: of the same shape, or (B, N_search, width) in the last layer.
            normalised: x after the `following` normalisation.
            division: the layer's.

        """
        attended, division = self.attention(normalised)
        if self.first_token_kept:
            x, attended = x[:, self.first_token_kept :], attended[:, self.first_token_kept :].contiguous()
        x, normalised = self._add(x, self.attention.projection(attended), self.norm2)
        return *self._add(x, self.mlp(normalised), following), division

    def _add(self, x: Tensor, branch: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        backend = self.attention.backend
        return add_layer_norm(x, self.drop_path(branch), norm.weight, norm.bias, norm.eps, backend)


class Attention(nn.Module):
    """Multi-head attention among the categories that the layer's division, or its configuration, gives the tokens.

    The output projection is left to the caller, which knows the tokens whose output is needed.

    Args:
        config: of the whole model.
        number: of the layer, counted from 1.

    """

    def __init__(self, config: ModelConfig, number: int):
        super().__init__()
        encoder = config.encoder
        n_template, n_search = config.template_tokens, config.search_side**2
        self.heads = encoder.heads
        self.template_tokens = n_template
        self.implementation = encoder.attention
        self.backend = encoder.backend
        self.epsilon = encoder.epsilon
        self.qkv = nn.Linear(encoder.width, 3 * encoder.width)
        self.projection = nn.Linear(encoder.width, encoder.width)
        self.division = None
        if number in config.division_layers:
            division = config.division.of_layer(number)
            self.division = TokenDivision(encoder.width, n_template, n_search, division, encoder.backend)
        self.joined = 0  # columns of `qkv` that are the division's
        self.fixed = _fixed_category(config, number)
        if self.fixed is not None and self.division is not None:
            self.division.requires_grad_(False)  # kept for its weights only: neither optimised nor waited for

        categories = torch.full((1, n_template + n_search), Category.T, dtype=torch.uint8)
        if self.fixed is not None:
            categories[:, n_template:] = self.fixed
        self.register_buffer("categories", categories, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Division]:
        """Attends among normalised tokens (B, N, width): what goes into the output projection, and the division."""
        qkv, projected = self.project(x)
        division = self.divide(x, projected)
        return self.attend(qkv, division).transpose(1, 2).flatten(2), division

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, heads, N, D) of normalised tokens (B, N, width): views of their packed projection, not copies."""
        return unpack(self.project(x)[0])

    def divide(self, x: Tensor, projected: Tensor | None = None) -> Division:
        """The division of the search tokens of normalised tokens (B, N, width); see `TokenDivision.forward`."""
        if self.fixed is None:
            return self.division(x, projected)
        return Division(self.categories[:, self.template_tokens :].expand(x.shape[0], -1))

    def join_division(self) -> None:
        """Lets the product for q, k, v make the division's product with the search tokens too.

        It reads the same tokens; what is made of the template's is not used. For inference only, and for good;
        `TokenDivision.take_apart` goes before. One product in place of two saves a launch on a GPU.
        """
        search = self.division.search
        self.joined = search.out_features
        joined = nn.Linear(self.qkv.in_features, self.qkv.out_features + self.joined, device="meta")
        weight = torch.cat([self.qkv.weight, search.weight])
        bias = torch.cat([self.qkv.bias, self.qkv.bias.new_zeros(self.joined)])
        joined.weight, joined.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))
        self.qkv, self.division.search = joined, None

    @property
    def joins_cheaply(self) -> bool:
        """Whether on a CPU too `join_division` saves more than it costs: a call takes as long as some million
        multiplications, and those with the template's tokens are made for nothing.
        """
        return self.template_tokens * self.division.search.weight.numel() < 2e6

    def project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """q, k, v as (B, N, 3, heads, D) of normalised tokens (B, N, width), and the division's columns of the same
        product (B, N_search, joined), or None.
        """
        qkv, projected = self.qkv(x), None
        if self.joined:
            projected = qkv[:, self.template_tokens :, -self.joined :]
            qkv = qkv[..., : -self.joined]
        return qkv.unflatten(2, (3, self.heads, -1)), projected

    def with_template(self, division: Division) -> tuple[Tensor | None, Tensor | None]:
        """Categories (B, N) and policy (B, N, 3) of all tokens, each None where the division has none."""
        if self.fixed is not None:
            return self.categories.expand(division.categories.shape[0], -1), None
        if division.all_categories is not None:
            return division.all_categories, None
        categories, policy = division.categories, division.policy
        template = self.categories[:, : self.template_tokens]
        if categories is not None:
            categories = torch.cat([template.expand(categories.shape[0], -1), categories], dim=1)
        if policy is not None:
            template = template.expand(policy.shape[0], -1)
            policy = torch.cat([one_hot(template, policy.dtype), policy], dim=1)
        return categories, policy

    def attend(self, qkv: Tensor, division: Division) -> Tensor:
        """Attention (B, heads, N, D) of q, k, v as `project` gives them, among the categories of a division."""
        categories, policy = self.with_template(division)
        if self.implementation == "fused":
            soft = categories is None
            return category_attention_packed(qkv, categories, policy, soft=soft, backend=self.backend)
        q, k, v = unpack(qkv)
        if self.fixed is not None:
            return self._attend_fixed(q, k, v)
        if self.implementation == "masked":
            policy = one_hot(categories) if policy is None else policy
            return masked_attention(q, k, v, policy, epsilon=self.epsilon)
        if policy is not None:
            raise RuntimeError("separate attention does not train the division: use attention fused or masked to train")
        return separate_attention(q, k, v, categories)

    def _attend_fixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fixed == Category.A:
            return F.scaled_dot_product_attention(q, k, v)
        sizes = [self.template_tokens, q.shape[2] - self.template_tokens]
        parts = zip(*(tensor.split(sizes, dim=2) for tensor in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)


def check_backend(config: EncoderConfig, device: torch.device, dtype: torch.dtype, *, needs_grad: bool = False) -> None:
    """Checks that the backend which the configuration names can serve on a device; without a name, one always can.

    Raises:
        ConfigError: it cannot; says why.

    """
    if config.backend is None or config.attention != "fused":
        return
    example = torch.empty(1, config.heads, 1, config.width // config.heads, device=device, dtype=dtype)
    reasons = explain(example, needs_grad=needs_grad).get(config.backend, ["there is no such backend"])
    if reasons:
        raise ConfigError(f"model.encoder.backend: {config.backend} cannot serve: {'; '.join(reasons)}")


class DropPath(nn.Module):
    """Stochastic depth: in training drops a residual branch for whole samples, and scales up the ones it keeps.

    Args:
        probability: that a sample's branch is dropped.

    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Drops samples of x (B, N, width)."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)

    def extra_repr(self) -> str:
        """Shown in the module's representation."""
        return f"probability={self.probability:g}"


def patch_coverage(boxes: Tensor, side: int, parts: int) -> Tensor:
    """How much of the parts of every patch of an image a box covers: (B, side^2, parts^2) in [0, 1].

    Args:
        boxes: (B, 4) centre x, centre y, width, height in sides of the image; may reach over its edges.
        side: of the image, in patches.
        parts: that a patch is cut into, in x and in y.

    """
    count = side * parts
    start = torch.arange(count, device=boxes.device, dtype=boxes.dtype)
    low, high = ((boxes[:, :2] + sign * boxes[:, 2:] / 2).unsqueeze(-1) * count for sign in (-1, 1))
    x, y = (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(0, 1).unbind(1)  # (B, count) each
    covered = y.unsqueeze(2) * x.unsqueeze(1)
    return covered.unflatten(2, (side, parts)).unflatten(1, (side, parts)).transpose(2, 3).flatten(3).flatten(1, 2)


def _stem(config: EncoderConfig) -> nn.Module:
    if config.stem == "efficientnet_lite0":
        return EfficientNetStem(config.width, config.stem_blocks)
    if config.stem == "patch":
        return nn.Conv2d(3, config.width, config.patch, stride=config.patch)
    halvings = config.patch.bit_length() - 1
    channels = [3, *(config.width >> (halvings - 1 - i) for i in range(halvings))]
    blocks = [ConvolutionBlock(channels[i], channels[i + 1], stride=2) for i in range(halvings)]
    return nn.Sequential(*blocks, nn.Conv2d(config.width, config.width, 1))


def _fixed_category(config: ModelConfig, number: int) -> Category | None:
    """The category of all search tokens of a layer; None where its division module says."""
    if number in config.division_layers:
        name = config.division.fixed.get(number)
        return None if name is None else Category[name]
    # The two-stream form has its template meet the search region in the last layer.
    two_stream = config.division.variant == "two_stream" and number < config.encoder.depth
    return Category.S if two_stream else Category.A


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _initialize_similar(module: nn.Module) -> None:
    """Keys begin as queries, and layers keep the scale of their input.

    After Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers" (ICML 2023): in trained transformers the
    product of both projections is close to a multiple of the identity.
    """
    if isinstance(module, Layer):
        for linear in (module.attention.qkv, module.attention.projection, module.mlp[0], module.mlp[1]):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
        query, key, _ = module.attention.qkv.weight.detach().chunk(3)
        key.copy_(query)
