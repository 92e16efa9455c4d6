"""What the model computes, and which weights fit it."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .section import Section, SectionError

#: How dividing layers attend: the fused operator, or one of the paper's two implementations.
AttentionImplementation = Literal["fused", "masked", "separate"]
#: Which categories a layer divides its search tokens into: see `DivisionConfig.variant`.
Variant = Literal["two_stream", "one_stream", "ts", "tsa", "sa", "ranked"]

# Of an encoder's layers, and of both images: ten times those of any published tracker.
_MOST_WEIGHTS = 4_000_000_000
_MOST_TOKENS = 20_000


class CropConfig(Section):
    """A square crop around the target, as the model wants to see it."""

    #: Side of the crop in pixels, as fed to the model.
    size: int = Field(gt=0, le=2048)
    #: Side of the crop in the frame, in units of the square root of the target's area.
    factor: float = Field(gt=0, le=32)


class EncoderConfig(Section):
    """The vision transformer that reads template and search tokens together."""

    width: int = Field(768, gt=0, le=8192)
    depth: int = Field(12, gt=0, le=128)
    heads: int = Field(12, gt=0, le=256)
    mlp_ratio: float = Field(4.0, gt=0, le=32)
    #: Side of the patch that one token stands for, in pixels.
    patch: int = Field(16, gt=0, le=256)
    #: What makes tokens of pixels: "patch" is ViT's one convolution; "convolutions" halves the image log2(patch) times
    #: with 3x3 convolutions, which is easier to train from nothing; "efficientnet_lite0" is as much of that network as
    #: has patches of 16 pixels, to be loaded with ImageNet's weights (`training.pretrained`).
    stem: Literal["patch", "convolutions", "efficientnet_lite0"] = "patch"
    #: With "efficientnet_lite0": so many of its blocks. 6 to 8 end with 80 channels, 9 to 11 with 112.
    stem_blocks: int = Field(11, ge=6, le=11)
    #: New weights: "published" are small normal numbers, made for pretrained ones to replace. "similarity" has every
    #: layer's keys begin as its queries, so attention begins as the likeness of tokens: to find the template in the
    #: search region is then a matter of refining, where there is no pretraining to have found it out.
    initialization: Literal["published", "similarity"] = "published"
    #: Probability that a residual branch is dropped in training: rises linearly from 0 in the first layer to this.
    drop_path: float = Field(0.1, ge=0, lt=1)
    #: How dividing layers attend: one fused operator, or one of the paper's two implementations. They agree.
    attention: AttentionImplementation = "fused"
    #: The backend of the fused operator (see `grm_kernels.category_attention`); null takes the fastest that can serve.
    backend: str | None = None
    #: With attention: masked, what is added to its softmax (see `grm_kernels.masked_attention`). The published code has
    #: 1e-6, the paper and this package nothing: where all that a token may see scores far below what it may not, that
    #: lets blocked values leak in, and fused attention has no place for it.
    epsilon: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "EncoderConfig":
        if self.width * self.mlp_ratio < 1:
            raise SectionError("mlp_ratio", message=f"expected 1 / width or more, got {self.mlp_ratio:g}")
        if (weights := int(self.depth * (4 + 2 * self.mlp_ratio) * self.width**2)) > _MOST_WEIGHTS:
            raise SectionError("width", "depth", message=f"expected at most {_MOST_WEIGHTS:g} weights, got {weights:g}")
        if self.stem == "convolutions" and self.width < self.patch:
            raise SectionError(
                "width", message=f"expected patch = {self.patch} or more for this stem, got {self.width}"
            )
        if self.width % self.heads:
            raise SectionError("width", message=f"expected a multiple of heads = {self.heads}, got {self.width}")
        if self.stem == "convolutions" and self.patch & (self.patch - 1):
            raise SectionError("patch", message=f"expected a power of two with stem: convolutions, got {self.patch}")
        if self.stem == "efficientnet_lite0" and self.patch != 16:
            raise SectionError("patch", message=f"expected 16 with stem: efficientnet_lite0, got {self.patch}")
        if self.backend is not None and self.attention != "fused":
            raise SectionError("backend", message=f"only attention: fused has one, got attention: {self.attention}")
        if self.epsilon and self.attention != "masked":
            raise SectionError(
                "epsilon",
                message=f"only attention: masked adds one: it is over all keys, and attention: {self.attention} leaves "
                "the blocked ones out",
            )
        return self


class DivisionConfig(Section):
    """How layers divide the search tokens: the variants of the paper's Tables 4 and 5 and of its appendix C."""

    #: Table 4: "two_stream" (#1: no token meets the template but in the last layer), "one_stream" (#2: all do), "ts"
    #: (#3: search tokens join S or T), "tsa" (#4: S, A or T), "sa" (#5, GRM: S or A). "ranked" is the prototype of
    #: appendix C.1, trained by supervision only, with all tokens A: in inference the best-scored tokens join T, a band
    #: around the boundary A, others S.
    variant: Variant = "sa"
    #: Layers that divide, counted from 1; null: all but the first (Table 5). In the others all search tokens are A.
    layers: tuple[int, ...] | None = None
    #: How the template is summed up for the division (Table 5).
    pooling: Literal["max", "average"] = "max"
    #: Widths of the division module's two hidden layers.
    hidden: tuple[int, int] = (384, 192)
    #: Appendix C.3: attend by the predicted probabilities, in training and inference, instead of a decision.
    soft: bool = False
    #: With `soft`: the probabilities are averaged over squares of so many tokens a side, all of which share the mean,
    #: after the region-level weights that appendix C.3 ends with. It divides the side of the search region in tokens.
    region: int = Field(1, gt=0)
    #: Training: what a token's category has for a gradient is cut to this over the batch size; null: never, as
    #: published. That gradient grows as exp(score - lse) of pairs that may not meet, so a few tokens of a layer with
    #: sharp attention can outweigh everything else. Not for float16, whose loss is scaled.
    gradient_limit: float | None = Field(None, gt=0)
    #: Inference: a token interacts where P(S) is below this; null: arg-max.
    threshold: float | None = Field(None, gt=0, lt=1)
    #: Inference: this share of the search tokens interacts, those with the lowest P(S); rounded down to whole tokens.
    ratio: float | None = Field(None, ge=0, le=1)
    #: Layers (counted from 1) with another ratio than that.
    ratios: dict[int, float] = Field(default_factory=dict)
    #: "exact": so many tokens interact, no more and no fewer. "minimum", as published: first the threshold, or arg-max,
    #: decides; then so many are made to interact, whatever it said. With "ranked" the former.
    ratio_rule: Literal["exact", "minimum"] = "exact"
    #: With "ranked": the share of the search tokens, around the boundary that `ratio` sets, that is shared (A).
    band: float = Field(0.0, ge=0, le=1)
    #: Appendix C.2: dividing layers (counted from 1) whose search tokens are all of the one category given. Their
    #: division modules keep their weights and are not run.
    fixed: dict[int, Literal["S", "A"]] = Field(default_factory=dict)

    @field_validator("hidden")
    @classmethod
    def _positive(cls, hidden: tuple[int, int]) -> tuple[int, int]:
        if min(hidden) < 1 or max(hidden) > 8192:
            raise ValueError(f"expected widths from 1 to 8192, got {list(hidden)}")
        return hidden

    @model_validator(mode="after")
    def _check(self) -> "DivisionConfig":
        divides = self.variant not in ("two_stream", "one_stream")
        if not divides and (self.layers or self.fixed):
            raise SectionError("layers", "fixed", message=f"variant {self.variant} divides in no layer")
        by_rank = self.ratio is not None or bool(self.ratios)
        if self.threshold is not None and by_rank and self.ratio_rule == "exact":
            raise SectionError(
                "threshold", "ratio", message="only one of them can decide, got both (or set ratio_rule: minimum)"
            )
        if wrong := {layer: ratio for layer, ratio in self.ratios.items() if not 0 <= ratio <= 1}:
            raise SectionError("ratios", message=f"expected numbers from 0 to 1, got {wrong}")
        if self.ratio_rule == "minimum" and not (by_rank and self.variant != "ranked"):
            raise SectionError("ratio_rule", message="minimum: expected a ratio, and a variant that decides by itself")
        if (self.threshold is not None or by_rank) and (not divides or self.variant == "tsa" or self.soft):
            raise SectionError(
                "threshold", "ratio", message="only a hard division into two has one (variants sa, ts; ratio: ranked)"
            )
        if self.variant == "ranked":
            if self.ratio is None:
                raise SectionError("ratio", message="variant ranked needs one")
        elif self.band:
            raise SectionError("band", message=f"only variant ranked has one, got variant {self.variant}")
        if self.gradient_limit is not None and (self.soft or self.variant == "ranked"):
            raise SectionError(
                "gradient_limit", message="only a sampled division has such a gradient (not soft, not ranked)"
            )
        if self.soft and self.variant not in ("sa", "ts", "tsa"):
            raise SectionError("soft", message=f"expected variant sa, ts or tsa, got {self.variant}")
        if self.region > 1 and not self.soft:
            raise SectionError("region", message="only a soft division is averaged (soft: true)")
        return self

    def of_layer(self, number: int) -> "DivisionConfig":
        """The same with the ratio that a layer has, counted from 1."""
        return self.model_copy(update={"ratio": self.ratios.get(number, self.ratio), "ratios": {}})


class HeadConfig(Section):
    """The centre head."""

    #: Channels of the first convolution of each branch; halved from each of the four to the next.
    channels: int = Field(256, gt=0, le=8192, multiple_of=8)
    #: The score that new weights begin with. The published ones scatter around 1/2, far from a map with one centre: a
    #: loss of 70 to unlearn, which pretrained encoders outlive.
    score_prior: float = Field(0.5, gt=0, lt=1)


class CertaintyConfig(Section):
    """What the scores of the weights mean, as `grm bounds` measures it; null: that was not measured."""

    #: Of the running mean of the scores (`grm.tracking.certainty`): below the first a target counts as lost, from the
    #: second on as held, and between them as uncertain.
    lost_below: float | None = Field(None, ge=0, le=1)
    held_from: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "CertaintyConfig":
        low, high = self.lost_below, self.held_from
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            raise SectionError(
                "lost_below", "held_from", message=f"expected both, the lower one first, got {low} and {high}"
            )
        return self


class ModelConfig(Section):
    """Everything that decides what the model computes and which weights fit it, and what its score means."""

    template: CropConfig = CropConfig(size=128, factor=2.0)
    search: CropConfig = CropConfig(size=256, factor=4.0)
    encoder: EncoderConfig = EncoderConfig()
    division: DivisionConfig = DivisionConfig()
    head: HeadConfig = HeadConfig()
    #: Whether the template's tokens are told how much of their patches the target's box covers. Not in the paper: the
    #: square crop alone says nothing of the target's aspect.
    template_box: bool = False
    certainty: CertaintyConfig = CertaintyConfig()

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        for name, crop in (("template", self.template), ("search", self.search)):
            if crop.size % self.encoder.patch:
                raise SectionError(
                    f"{name}.size",
                    message=f"expected a multiple of encoder.patch = {self.encoder.patch}, got {crop.size}",
                )
        if (tokens := self.template_tokens + self.search_side**2) > _MOST_TOKENS:
            raise SectionError("search.size", message=f"expected at most {_MOST_TOKENS} tokens of images, got {tokens}")
        depth, layers = self.encoder.depth, self.division_layers
        wrong = [layer for layer in layers if not 1 <= layer <= depth]
        if wrong or list(layers) != sorted(set(layers)):
            raise SectionError(
                "division.layers", message=f"expected rising numbers from 1 to {depth}, got {list(layers)}"
            )
        for name, numbers in (("fixed", self.division.fixed), ("ratios", self.division.ratios)):
            if unknown := sorted(set(numbers) - set(layers)):
                raise SectionError(
                    f"division.{name}",
                    message=f"expected layers that divide, of {list(layers)}, got {unknown}",
                )
        if self.search_side % self.division.region:
            raise SectionError(
                "division.region",
                message=f"expected a divisor of the search region's {self.search_side} tokens a side, "
                f"got {self.division.region}",
            )
        if self.division.soft and self.encoder.attention == "separate":
            raise SectionError(
                "division.soft", message="separate attention needs decisions; use attention fused or masked"
            )
        return self

    @property
    def division_layers(self) -> tuple[int, ...]:
        """The layers with a division module, counted from 1."""
        if self.division.variant in ("two_stream", "one_stream"):
            return ()
        return tuple(range(2, self.encoder.depth + 1)) if self.division.layers is None else self.division.layers

    @property
    def template_tokens(self) -> int:
        """Number of template tokens."""
        return (self.template.size // self.encoder.patch) ** 2

    @property
    def search_side(self) -> int:
        """Side F of the search region in tokens, and of the head's maps."""
        return self.search.size // self.encoder.patch
