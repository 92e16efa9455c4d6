"""What is trained on and held out, how pairs are drawn from it, and synthetic video."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from .section import Section, SectionError

DatasetKind = Literal["lasot", "trackingnet", "got10k", "coco", "folder", "regions", "synthetic"]
#: The ends of a uniform range.
Range = tuple[float, float]

# Of the ranges of synthetic video, in their unit: those of a few keys, and of all others.
_LARGEST = {
    "camera": 4, "distractors": 100, "passers": 100, "occlusions": 100, "absences": 100, "blackouts": 100,
    "quality": 100,
}  # fmt: skip
_LARGEST_ELSE = 1000


class DatasetConfig(Section):
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
            raise SectionError(
                "kind", message="synthetic: expected limit, a number of sequences, and neither root nor names"
            )
        if self.kind != "synthetic" and self.root is None:
            raise SectionError("root", message=f"kind {self.kind} needs one")
        return self


class JitterConfig(Section):
    """How far the search region is moved off the target in training."""

    #: Width and height are each multiplied by exp(scale * N(0, 1)).
    scale: float = Field(0.25, ge=0, le=4)
    #: The centre moves up to this far in x and in y, in units of the square root of the (scaled) box's area.
    center: float = Field(1.5, ge=0, le=100)


class SyntheticConfig(Section):
    """Synthetic video: how large, how varied and how hard. Pairs of numbers are the ends of a uniform range.

    A target's size is the square root of its width times its height in the first frame, before it is turned and bent.
    "Deviation": of a smooth random curve.
    """

    width: int = Field(320, ge=64, le=4096)
    height: int = Field(240, ge=64, le=4096)
    frames: int = Field(80, ge=20, le=10_000)
    #: A folder of more photographs to make textures of; null: those that come with installed packages. A relative one
    #: starts at `data.root`, as that of the cut-outs.
    photographs: Path | None = None
    #: Probability that the background is one of those photographs as it is, and not textures under many objects.
    photographic: float = Field(0.0, ge=0, le=1)
    #: A folder of cut-outs, images with an opacity, for what is shown to be made of; and the probability that the
    #: target, and with it those like it, is one.
    cutouts: Path | None = None
    cutout: float = Field(0.0, ge=0, le=1)
    #: Probability that a target that is no cut-out, and with it those like it, has limbs that swing.
    articulated: float = Field(0.0, ge=0, le=1)
    #: Size of the target in pixels, and its width over its height; both uniform in their logarithm.
    size: Range = (26, 56)
    aspect: Range = (0.5, 2.0)
    #: Root mean square speed in sizes a frame; the centre stays so many sizes inside the frame.
    speed: Range = (0.06, 0.18)
    margin: Range = (0.3, 1.5)
    #: Deviations: of the angle in radians, of the logarithms of size and of the square root of the aspect.
    turn: float = Field(0.5, ge=0, le=100)
    scale: float = Field(0.2, ge=0, le=4)
    stretch: float = Field(0.12, ge=0, le=4)
    #: Largest bend of the outline, in half sizes.
    deform: float = Field(0.15, ge=0, lt=0.5)
    #: Objects made as the target is, with its texture, its colours and often its shape; some keep near it, at a
    #: distance whose deviation is in sizes.
    distractors: tuple[int, int] = (1, 3)
    same_shape: float = Field(0.5, ge=0, le=1)
    companion: float = Field(0.5, ge=0, le=1)
    distance: float = Field(2.0, ge=0, le=1000)
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
    light: float = Field(0.12, ge=0, le=4)
    cast: float = Field(0.03, ge=0, le=4)
    shadow: Range = (0.0, 0.5)
    #: Probability that a sequence has bursts of blur (half by motion, half out of focus), and their width in pixels.
    blur: float = Field(0.3, ge=0, le=1)
    blur_width: Range = (2.0, 7.0)
    #: Width in pixels of the blur that a sequence has throughout.
    softness: Range = (0.0, 2.5)
    #: Deviation of the noise of pixels, of 255.
    noise: Range = (0.0, 8.0)
    #: How often the target leaves the frame over an edge and comes back over it; the frames that it is away.
    absences: tuple[int, int] = (0, 0)
    absence_frames: Range = (8, 24)
    #: Share of the frames that are lost, never the first: time goes on, and the sequence has so many fewer.
    dropped: float = Field(0.0, ge=0, lt=1)
    #: How often the picture is black, never in the first frame, and for how many frames.
    blackouts: tuple[int, int] = (0, 0)
    blackout_frames: Range = (2, 8)
    #: Quality of the JPEG that a frame comes through, from 1 to 100; null: it comes as it is.
    quality: Range | None = None

    @model_validator(mode="after")
    def _check(self) -> "SyntheticConfig":
        for name in type(self).model_fields:
            value = getattr(self, name)
            largest = _LARGEST.get(name, _LARGEST_ELSE)
            if isinstance(value, tuple) and not 0 <= min(value) <= max(value) <= largest:
                raise SectionError(name, message=f"expected numbers from 0 to {largest}, got {list(value)}")
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise SectionError(name, message=f"expected the smaller number first, got {list(value)}")
        if self.size[0] < 1 or not 0.01 <= self.aspect[0] <= self.aspect[1] <= 100:
            raise SectionError("size", "aspect", message="expected a size from 1 and an aspect from 0.01 to 100")
        for name in ("occlusion_frames", "absence_frames", "blackout_frames", "quality"):
            ends = getattr(self, name)
            if ends is not None and ends[0] < 1:
                raise SectionError(name, message=f"expected 1 or more, got {list(ends)}")
        for share, folder in (("photographic", "photographs"), ("cutout", "cutouts")):
            if getattr(self, share) and getattr(self, folder) is None:
                raise SectionError(share, message=f"needs a folder of {folder}, got null")
        return self


class DataConfig(Section):
    """What is trained on and held out, and how pairs are drawn and augmented. Defaults are the published values."""

    #: Where relative roots of data sets start.
    root: Path = Path("data")
    #: Data sets to train on, by a name of your choice.
    train: dict[str, DatasetConfig] = Field(default_factory=dict)
    #: Data sets whose sequences are tracked now and then during training, and never trained on; without weights.
    held_out: dict[str, DatasetConfig] = Field(default_factory=dict)
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
    #: Each image is stretched in x over y by exp(stretch * N(0, 1)), by itself: the target's extent can then not be
    #: taken over from the template, it has to be seen.
    stretch: float = Field(0.0, ge=0, le=1)
    #: Each crop's colours are mixed, and lighter or darker, at random: the deviation of a mixing's numbers.
    color: float = Field(0.0, ge=0, le=1)
    #: Probability that a crop loses detail: to blur by motion or out of focus, to a smaller size, or to compression.
    degrade: float = Field(0.0, ge=0, le=1)
    #: Probability that cut-outs, those of `synthetic.cutouts`, are pasted into a search region with colours: beside the
    #: target, and over up to half of what is seen of it.
    paste: float = Field(0.0, ge=0, le=1)
    #: Broken images and annotations are replaced by the next draw until, in one process, there are more than
    #: `failures` of them and they are more than this share of its draws.
    failure_share: float = Field(0.01, ge=0, lt=1)
    failures: int = Field(10, ge=0)
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.paste and self.synthetic.cutouts is None:
            raise SectionError("paste", message="needs a folder of synthetic.cutouts, got null")
        for name, dataset in self.held_out.items():
            if dataset.weight != 1:
                message = f"is of data sets to train on: expected none, got {dataset.weight:g}"
                raise SectionError("held_out", name, "weight", message=message)
        return self
