"""Typed configuration: what it may say, and how it is read from a preset or a file, with overrides.

A configuration is YAML. Unknown keys are refused, and the answer names the valid ones.
"""

import difflib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Attention = Literal["fused", "masked", "separate"]
Variant = Literal["two_stream", "one_stream", "ts", "tsa", "sa", "ranked"]
DatasetKind = Literal["lasot", "trackingnet", "got10k", "coco", "folder", "synthetic"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one line for each fault."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CropConfig(_Section):
    """A square crop around the target, as the model wants to see it."""

    #: Side of the crop in pixels, as fed to the model.
    size: int = Field(gt=0)
    #: Side of the crop in the frame, in units of the square root of the target's area.
    factor: float = Field(gt=0)


class EncoderConfig(_Section):
    """The vision transformer that reads template and search tokens together."""

    width: int = Field(768, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    mlp_ratio: float = Field(4.0, gt=0)
    #: Side of the patch that one token stands for, in pixels.
    patch: int = Field(16, gt=0)
    #: What makes tokens of pixels: "patch" is ViT's one convolution; "convolutions" halves the image log2(patch) times
    #: with 3x3 convolutions, which is easier to train from nothing.
    stem: Literal["patch", "convolutions"] = "patch"
    #: New weights: "published" are small normal numbers, made for pretrained ones to replace. "similarity" has every
    #: layer's keys begin as its queries, so attention begins as the likeness of tokens: to find the template in the
    #: search region is then a matter of refining, where there is no pretraining to have found it out.
    initialization: Literal["published", "similarity"] = "published"
    #: Probability that a residual branch is dropped in training: rises linearly from 0 in the first layer to this.
    drop_path: float = Field(0.1, ge=0, lt=1)
    #: How dividing layers attend: one fused operator, or one of the paper's two implementations. They agree.
    attention: Attention = "fused"
    #: The backend of the fused operator (see `grm_kernels.category_attention`); null takes the fastest that can serve.
    backend: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "EncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}, got {self.width}")
        if self.stem == "convolutions" and self.patch & (self.patch - 1):
            raise ValueError(f"patch: expected a power of two with stem: convolutions, got {self.patch}")
        if self.backend is not None and self.attention != "fused":
            raise ValueError(f"backend: only attention: fused has one, got attention: {self.attention}")
        return self


class DivisionConfig(_Section):
    """How layers divide the search tokens: the variants of the paper's Tables 4 and 5 and of its appendix C."""

    #: Table 4: "two_stream" (#1: no token meets the template but in the last layer), "one_stream" (#2: all do), "ts"
    #: (#3: search tokens join S or T), "tsa" (#4: S, A or T), "sa" (#5, GRM: S or A). "ranked" is the prototype of
    #: appendix C.1, trained by supervision only: the best-scored tokens join T, a band around the boundary A, others S.
    variant: Variant = "sa"
    #: Layers that divide, counted from 1; null: all but the first (Table 5). In the others all search tokens are A.
    layers: tuple[int, ...] | None = None
    #: How the template is summed up for the division (Table 5).
    pooling: Literal["max", "average"] = "max"
    #: Widths of the division module's two hidden layers.
    hidden: tuple[int, int] = (384, 192)
    #: Appendix C.3: attend by the predicted probabilities, in training and inference, instead of a decision.
    soft: bool = False
    #: Training: what a token's category has for a gradient is cut to this over the batch size; null: never, as
    #: published. That gradient grows as exp(score - lse) of pairs that may not meet, so a few tokens of a layer with
    #: sharp attention can outweigh everything else. Not for float16, whose loss is scaled.
    gradient_limit: float | None = Field(None, gt=0)
    #: Inference: a token interacts where P(S) is below this; null: arg-max.
    threshold: float | None = Field(None, gt=0, lt=1)
    #: Inference: this share of the search tokens interacts, those with the lowest P(S). With "ranked" in training too.
    ratio: float | None = Field(None, ge=0, le=1)
    #: With "ranked": the share of the search tokens, around the boundary that `ratio` sets, that is shared (A).
    band: float = Field(0.0, ge=0, le=1)
    #: Appendix C.2: dividing layers (counted from 1) whose search tokens are all of the one category given. Their
    #: division modules keep their weights and are not run.
    fixed: dict[int, Literal["S", "A"]] = {}

    @field_validator("hidden")
    @classmethod
    def _positive(cls, hidden: tuple[int, int]) -> tuple[int, int]:
        if min(hidden) < 1:
            raise ValueError(f"expected positive widths, got {list(hidden)}")
        return hidden

    @model_validator(mode="after")
    def _check(self) -> "DivisionConfig":
        divides = self.variant not in ("two_stream", "one_stream")
        if not divides and (self.layers or self.fixed):
            raise ValueError(f"layers, fixed: variant {self.variant} divides in no layer")
        if self.threshold is not None and self.ratio is not None:
            raise ValueError("threshold, ratio: only one of them can decide, got both")
        if (self.threshold is not None or self.ratio is not None) and (
            not divides or self.variant == "tsa" or self.soft
        ):
            raise ValueError("threshold, ratio: only a hard division into two has one (variants sa, ts; ratio: ranked)")
        if self.variant == "ranked":
            if self.ratio is None:
                raise ValueError("ratio: variant ranked needs one")
        elif self.band:
            raise ValueError(f"band: only variant ranked has one, got variant {self.variant}")
        if self.gradient_limit is not None and (self.soft or self.variant == "ranked"):
            raise ValueError("gradient_limit: only a sampled division has such a gradient (not soft, not ranked)")
        if self.soft and self.variant not in ("sa", "ts", "tsa"):
            raise ValueError(f"soft: expected variant sa, ts or tsa, got {self.variant}")
        return self


class HeadConfig(_Section):
    """The centre head."""

    #: Channels of the first convolution of each branch; halved from each of the four to the next.
    channels: int = Field(256, gt=0, multiple_of=8)
    #: The score that new weights begin with. The published ones scatter around 1/2, far from a map with one centre: a
    #: loss of 70 to unlearn, which pretrained encoders outlive.
    score_prior: float = Field(0.5, gt=0, lt=1)


class ModelConfig(_Section):
    """Everything that decides what the model computes and which weights fit it."""

    template: CropConfig = CropConfig(size=128, factor=2.0)
    search: CropConfig = CropConfig(size=256, factor=4.0)
    encoder: EncoderConfig = EncoderConfig()
    division: DivisionConfig = DivisionConfig()
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        for name, crop in (("template", self.template), ("search", self.search)):
            if crop.size % self.encoder.patch:
                raise ValueError(
                    f"{name}.size: expected a multiple of encoder.patch = {self.encoder.patch}, got {crop.size}"
                )
        depth, layers = self.encoder.depth, self.division_layers
        wrong = [layer for layer in layers if not 1 <= layer <= depth]
        if wrong or list(layers) != sorted(set(layers)):
            raise ValueError(f"division.layers: expected rising numbers from 1 to {depth}, got {list(layers)}")
        if unknown := sorted(set(self.division.fixed) - set(layers)):
            raise ValueError(f"division.fixed: expected layers that divide ({_listed(layers)}), got {_listed(unknown)}")
        if self.division.soft and self.encoder.attention == "separate":
            raise ValueError("division.soft: separate attention needs decisions; use attention fused or masked")
        return self

    def with_overrides(self, overrides: Sequence[str], *, name: str = "configuration") -> "ModelConfig":
        """A changed copy of it, checked; arguments and errors as of `parse_config`."""
        return parse_config({"model": self.model_dump(mode="json")}, overrides, name=name).model

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


class DatasetConfig(_Section):
    """One data set: where it lies and what is taken of it. `grm.data` says how each kind is laid out."""

    kind: DatasetKind
    #: Its folder; a relative one starts at `data.root`. Kind synthetic has none.
    root: Path | None = None
    #: lasot: train, test, all. trackingnet: train, test. got10k: train, val, test. coco: train, val. synthetic: train,
    #: held_out.
    split: str = "train"
    #: A file that names the sequences to take, one a line; null: those that the data set itself lists. A relative one
    #: starts at `data.root`.
    names: Path | None = None
    #: So many sequences are taken, the first ones; null: all. Kind synthetic needs it: it has no end.
    limit: int | None = Field(None, gt=0)
    #: How often pairs are drawn from it, against the other data sets.
    weight: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "DatasetConfig":
        if self.kind == "synthetic" and (self.root is not None or self.names is not None or self.limit is None):
            raise ValueError("kind synthetic: expected limit (the number of sequences), neither root nor names")
        if self.kind != "synthetic" and self.root is None:
            raise ValueError(f"root: kind {self.kind} needs one")
        return self


class JitterConfig(_Section):
    """How far the search region is moved off the target in training."""

    #: Width and height are each multiplied by exp(scale * N(0, 1)).
    scale: float = Field(0.25, ge=0)
    #: The centre moves up to this far in x and in y, in units of the square root of the (scaled) box's area.
    center: float = Field(1.5, ge=0)


Range = tuple[float, float]


class SyntheticConfig(_Section):
    """Synthetic video: how large, how varied and how hard. Pairs of numbers are the ends of a uniform range.

    A target's size is the square root of the area of its box in the first frame. "Deviation": of a smooth random curve.
    """

    width: int = Field(320, ge=64)
    height: int = Field(240, ge=64)
    frames: int = Field(80, ge=20)
    #: A folder of more photographs to make textures of; null: those that come with installed packages.
    photographs: Path | None = None
    #: Size of the target in pixels, and its width over its height; both uniform in their logarithm.
    size: Range = (26, 56)
    aspect: Range = (0.5, 2.0)
    #: Root mean square speed in sizes a frame; the centre stays so many sizes inside the frame.
    speed: Range = (0.06, 0.18)
    margin: Range = (0.3, 1.5)
    #: Deviations: of the angle in radians, of the logarithms of size and of aspect.
    turn: float = Field(0.5, ge=0)
    scale: float = Field(0.2, ge=0)
    stretch: float = Field(0.12, ge=0)
    #: Largest bend of the outline, in half sizes.
    deform: float = Field(0.15, ge=0, lt=0.5)
    #: Objects made as the target is, with its texture, its colours and often its shape; some keep near it, at a
    #: distance whose deviation is in sizes.
    distractors: tuple[int, int] = (1, 3)
    same_shape: float = Field(0.5, ge=0, le=1)
    companion: float = Field(0.5, ge=0, le=1)
    distance: float = Field(2.0, ge=0)
    #: Probability that a distractor passes in front of the target, not behind it.
    in_front: float = Field(0.3, ge=0, le=1)
    #: Objects of other kinds that move about behind the target.
    passers: tuple[int, int] = (0, 3)
    #: How often something moves across the target; its size in the target's, and the frames that it takes.
    occlusions: tuple[int, int] = (0, 2)
    occluder: Range = (0.7, 1.8)
    occlusion_frames: Range = (8, 24)
    #: The target is visible where more than this share of it is.
    visible_share: float = Field(0.25, ge=0, lt=1)
    #: Deviations of the camera: of its place in widths of the frame, of its angle in radians, of its logarithmic zoom.
    camera: tuple[float, float, float] = (0.12, 0.06, 0.06)
    #: Deviation of the brightness over time, of each colour's; depth of a shadow that lies over part of the frame.
    light: float = Field(0.12, ge=0)
    cast: float = Field(0.03, ge=0)
    shadow: Range = (0.0, 0.5)
    #: Probability that a sequence has bursts of blur (half by motion, half out of focus), and their width in pixels.
    blur: float = Field(0.3, ge=0, le=1)
    blur_width: Range = (2.0, 7.0)
    #: Width in pixels of the blur that a sequence has throughout.
    softness: Range = (0.0, 2.5)
    #: Deviation of the noise of pixels, of 255.
    noise: Range = (0.0, 8.0)

    @model_validator(mode="after")
    def _check(self) -> "SyntheticConfig":
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and min(value) < 0:
                raise ValueError(f"{name}: expected numbers from 0 on, got {list(value)}")
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise ValueError(f"{name}: expected the smaller number first, got {list(value)}")
        if not self.size[0] or not self.aspect[0]:
            raise ValueError("size, aspect: expected positive numbers")
        return self


class DataConfig(_Section):
    """What is trained on and held out, and how pairs are drawn and augmented. Defaults are the published values."""

    #: Where relative roots of data sets start.
    root: Path = Path("data")
    #: Data sets to train on, by a name of your choice.
    train: dict[str, DatasetConfig] = {}
    #: Data sets whose sequences are tracked now and then during training, and never trained on.
    held_out: dict[str, DatasetConfig] = {}
    samples_per_epoch: int = Field(60_000, gt=0)
    #: The search frame comes at most so many frames after the template's.
    max_gap: int = Field(199, gt=0)
    #: Sequences with fewer frames, or fewer visible ones, are not drawn from.
    min_frames: int = Field(20, ge=2)
    min_visible: int = Field(5, ge=2)
    jitter: JitterConfig = JitterConfig()
    #: Probability that both images lose their colour; that both are mirrored; that one crop by itself is.
    grayscale: float = Field(0.05, ge=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)
    crop_flip: float = Field(0.5, ge=0, le=1)
    #: Each crop is multiplied by a number between 1 - brightness and 1 + brightness.
    brightness: float = Field(0.2, ge=0, lt=1)
    #: Broken images and annotations are replaced by the next draw until, in one process, there are more than
    #: `failures` of them and they are more than this share of its draws.
    failure_share: float = Field(0.01, ge=0, lt=1)
    failures: int = Field(10, ge=0)
    synthetic: SyntheticConfig = SyntheticConfig()


class LossConfig(_Section):
    """Weights of the terms of the loss; a term of weight 0 is not computed, unless it is one of the first three."""

    focal: float = Field(1.0, ge=0)
    giou: float = Field(2.0, ge=0)
    l1: float = Field(5.0, ge=0)
    #: The cell whose box is judged by GIoU and L1: "highest", the one with the highest score, as published; or
    #: "center", the one of the true centre. Where the centre is uncertain, boxes that are too large overlap best; so
    #: the first has sizes depend on how well the target is found, and a tracker that crops by them drifts.
    box_cell: Literal["highest", "center"] = "highest"
    #: Appendix C.2: entropy regularisation of the division.
    entropy: float = Field(0.0, ge=0)
    #: Appendix C.1: supervision of the division by the box.
    division: float = Field(0.0, ge=0)


class TrainingConfig(_Section):
    """How a model is trained. The defaults are those of the paper for the four-set mix, on 8 GPUs."""

    #: Decides the new weights, and the noise of every step.
    seed: int = Field(0, ge=0)
    epochs: int = Field(300, gt=0)
    #: Pairs in one forward pass of one process. A step is made of batch_size x processes x accumulate of them.
    batch_size: int = Field(40, gt=0)
    #: Forward and backward passes of every process whose gradients make one step.
    accumulate: int = Field(1, gt=0)
    #: Of the head and of the division modules.
    learning_rate: float = Field(4e-4, gt=0)
    #: Of everything else; the paper's is for pretrained weights.
    encoder_learning_rate: float = Field(4e-5, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    #: "step": both rates are divided by 10 at each milestone. "cosine": they fall to 0 along half a cosine.
    schedule: Literal["step", "cosine"] = "step"
    #: With "step": epochs, counted from 0, from which on the rates are lower.
    milestones: tuple[int, ...] = (240,)
    #: Steps over which the rates rise linearly from 0.
    warmup: int = Field(0, ge=0)
    #: The gradient is scaled down to this norm; null: never.
    clip_norm: float | None = Field(0.1, gt=0)
    loss: LossConfig = LossConfig()
    #: Of the products. Weights, losses and the optimiser stay in float32. "auto" is bfloat16 where the device has
    #: instructions for it, float32 elsewhere; the run's own configuration says which.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    #: Whether torch.compile makes one graph of the model.
    compile: bool = False
    #: Processes of each training process that make samples; 0: it makes them itself.
    workers: int = Field(8, ge=0)
    #: Threads that each training process computes with on a CPU; null: torch's choice, usually one a core. Workers need
    #: cores as well.
    threads: int | None = Field(None, gt=0)
    #: Weights to begin with: our own (.safetensors) or a published tracker's (.pth.tar) as a whole, or the encoder of
    #: an MAE or DeiT checkpoint (.pth); null: new ones.
    pretrained: str | None = None
    #: Epochs between evaluations on the held-out sequences, the last epoch always; 0: never.
    evaluate_every: int = Field(20, ge=0)
    #: Steps between checkpoints, one at the end besides.
    checkpoint_every: int = Field(500, gt=0)
    #: Steps between lines of the log, each the mean over them.
    log_every: int = Field(50, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise ValueError(f"milestones: expected rising epochs from 1 on, got {list(self.milestones)}")
        return self


class Config(_Section):
    """A whole configuration, as a YAML file has it."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> "Config":
        weights, division = self.training.loss, self.model.division
        if weights.entropy and division.variant not in ("sa", "tsa"):
            raise ValueError(f"training.loss.entropy: variant {division.variant} chooses no A tokens")
        if division.gradient_limit is not None and self.training.precision == "float16":
            raise ValueError("model.division.gradient_limit: float16 scales the loss; use bfloat16 or float32")
        for name in ("entropy", "division"):
            if getattr(weights, name) and not set(self.model.division_layers) - set(division.fixed):
                raise ValueError(f"training.loss.{name}: no layer of this model predicts a division")
        return self


def presets() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _preset_folder().iterdir() if entry.name.endswith(".yaml")
    )


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: name of a preset (see `presets`), or path of a YAML file (ending in .yaml or .yml).
        overrides: "key.sub=value" each, as in "model.division.threshold=0.4"; the value is YAML. Later ones win.

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a value that does not fit.

    """
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source)
    elif str(source) in presets():
        path = _preset_folder() / f"{source}.yaml"
    else:
        hint = _did_you_mean(str(source), presets())
        raise ConfigError(f"{source}: no such preset{hint}; there are {_listed(presets())} (or name a .yaml file)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: cannot be read as YAML: {error}") from None
    return parse_config(values, overrides, name=str(source))


def parse_config(values: Any, overrides: Sequence[str] = (), *, name: str = "configuration") -> Config:
    """Checks a configuration given as nested dictionaries; arguments and errors as in `load_config`.

    Args:
        values: what the YAML says; None for an empty file, which is all defaults.
        overrides: as in `load_config`. `values` is left as it is.
        name: what messages call the configuration.

    """
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{name}: expected keys and values, got {type(values).__name__}")
    values = values or {}
    for override in overrides:
        values = _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{name}: {_explain(fault)}" for fault in error.errors())) from None


def _preset_folder() -> Any:
    return files(__package__) / "configs"


def _override(values: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r}: expected key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from None
    values = dict(values)
    section = values
    for name in names[:-1]:
        inner = section.get(name) or {}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {name} has no keys, it is {inner!r}")
        section[name] = dict(inner)
        section = section[name]
    section[names[-1]] = value
    return values


def _explain(fault: dict[str, Any]) -> str:
    location = ".".join(map(str, fault["loc"]))
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "value_error":
            return f"{location}: {message}" if location else message
        got = "" if fault["type"] == "missing" else f", got {fault['input']!r}"
        return f"{location}: {message[0].lower()}{message[1:]}{got}"
    section: Any = Config
    for name in fault["loc"][:-1]:
        in_dictionary = get_origin(section) is dict
        section = get_args(section)[1] if in_dictionary else section.model_fields[name].annotation
    valid = list(section.model_fields)
    hint = _did_you_mean(str(fault["loc"][-1]), valid)
    return f"{location}: unknown key{hint}; valid here: {_listed(valid)}"


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
