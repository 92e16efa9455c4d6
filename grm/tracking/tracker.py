"""The tracker: from the frames of a video to the boxes of one target or several."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..boxes import CLIP_MARGIN, LARGEST, SMALLEST, Boxes, as_boxes, can_be_cropped, clip_boxes
from ..crop import BoxMapping, CropRegion, Image, crop_image, crop_region
from ..errors import BoxError, FrameError, NonFiniteError
from ..model import GRM
from .certainty import next_mean, states_of
from .device_crop import View
from .network import Located, Network, TrackingNetwork, cut_views

_NO_TARGET = "the tracker has no target yet: call initialize(frame, box) first"


class Track(NamedTuple):
    """One target in one frame; of several targets given as a batch of M, every field has M in front."""

    #: (4,): x, y, width, height in pixels of the frame, clipped to it.
    box: Boxes
    #: () in [1e-4, 1 - 1e-4]: how sure the network is of the centre; low when the target is hidden or lost.
    score: NDArray[np.float32]
    #: (layers, F, F): the category (`grm_kernels.Category`) that every layer gave each token of the search region.
    division: NDArray[np.uint8]
    #: The search region, in the frame: a CropRegion, of M targets a list.
    region: CropRegion | list[CropRegion]
    #: () "held", "uncertain" or "lost": what the running mean of the scores since the target was shown says
    #: (`grm.tracking.certainty`), by the bounds of the weights; "" where they have none.
    state: NDArray[np.str_]


class Tracker:
    """Follows a target that a box shows it in a first frame.

    Frames are RGB, uint8 arrays of shape (height, width, 3). OpenCV reads BGR: give it `frame[..., ::-1]`.

        tracker = Tracker(model)
        tracker.initialize(first_frame, (x, y, width, height))
        box, score, *_ = tracker.track(next_frame)

    Several targets of one video are one batch: initialise with their (M, 4) boxes.

    Args:
        network: what finds targets in crops; or a model with trained weights, which is copied.
        mapping: from the model's boxes to the frame's: "published" or "exact", see `grm.crop.CropRegion.to_frame`.
        options: of a model's network: device, dtype, compile, cuda_graph and crop_on_device, as `TrackingNetwork` takes
            them.

    Raises:
        ValueError: an unknown mapping, or a CUDA graph without a CUDA device.
        TypeError: options that are none, or options beside a network that is made already.

    """

    def __init__(self, network: Network | GRM, *, mapping: BoxMapping = "published", **options: Any):
        if mapping not in get_args(BoxMapping):
            raise ValueError(f"mapping: expected one of {', '.join(get_args(BoxMapping))}, got {mapping!r}")
        if isinstance(network, GRM):
            network = TrackingNetwork(network, **options)
        elif options:
            raise TypeError(f"{', '.join(options)}: of a network that is made already")
        self.network: Network = network
        self.config = network.config
        self.mapping = mapping
        #: (M, 4): where the targets were last seen; around them they are searched for.
        self.boxes: Boxes | None = None
        #: What the network made of the templates of the M targets.
        self.template: Any = None
        self._templates: list[tuple[Image, Boxes]] = []
        #: (M,) running means of the scores, NaN before the first.
        self._means = np.empty(0)
        self._one_target = True

    @classmethod
    def from_model(
        cls,
        model: GRM,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        cuda_graph: bool | None = None,
        mapping: BoxMapping = "published",
    ) -> "Tracker":
        """Makes a tracker of a model; arguments and errors as of `TrackingNetwork` and of this class."""
        network = TrackingNetwork(model, device, dtype, compile=compile, cuda_graph=cuda_graph)
        return cls(network, mapping=mapping)

    def initialize(self, frame: Image, box: ArrayLike) -> None:
        """Shows the tracker its target.

        Args:
            frame: (height, width, 3) uint8, RGB.
            box: (4,) x, y, width, height in pixels of the frame, or (M, 4) for several targets. Edges may be crossed.

        Raises:
            BoxError: not such boxes, one of which nothing can be seen in the frame, or one too large or small to crop.
            FrameError: not such a frame.
            TypeError: the frame is not a uint8 array.

        """
        _check_frame(frame)
        boxes = as_boxes(box)
        if boxes.ndim > 2 or boxes.size == 0:
            raise BoxError(f"box: expected shape (4,) or (M, 4), got {boxes.shape}")
        targets = np.atleast_2d(boxes)
        self._learn([self._shown(frame, target) for target in targets], targets)
        self._means = np.full(len(targets), np.nan)
        self._one_target = boxes.ndim == 1

    def show(self, frame: Image, number: int, box: ArrayLike) -> None:
        """Shows the tracker one of its targets anew, or one more; the others stay as they are.

        Args:
            frame: (height, width, 3) uint8, RGB.
            number: of the target, counted from 0; as many as there are for one more, with which all are tracked as a
                batch.
            box: (4,) x, y, width, height in pixels of the frame.

        Raises:
            ValueError: there is no such number.
            RuntimeError: the tracker was not initialised.
            BoxError, FrameError, TypeError: as of `initialize`.

        """
        _check_frame(frame)
        target = as_boxes(box)
        if target.ndim != 1:
            raise BoxError(f"box: expected shape (4,), got {target.shape}")
        if self.boxes is None:
            raise RuntimeError(_NO_TARGET)
        if not 0 <= number <= len(self.boxes):
            raise ValueError(f"number: expected at most {len(self.boxes)}, one more than there are, got {number}")
        templates, boxes = list(self._templates), list(self.boxes)
        templates[number : number + 1], boxes[number : number + 1] = [self._shown(frame, target)], [target]
        self._learn(templates, np.stack(boxes))
        self._means = np.concatenate([self._means[:number], [np.nan], self._means[number + 1 :]])
        self._one_target &= len(boxes) == 1

    def _learn(self, templates: list[tuple[Image, Boxes]], boxes: Boxes) -> None:
        """Takes targets from their template crops, with the boxes (4,) in them, and from where they are, (M, 4)."""
        crops, inside = zip(*templates, strict=True)
        self.template = self.network.template_tokens(list(crops), np.stack(inside))
        self._templates, self.boxes = templates, boxes

    def _shown(self, frame: Image, box: Boxes) -> tuple[Image, Boxes]:
        """The template crop of a box of a frame, and the box in it."""
        height, width = frame.shape[:2]
        if (box[:2] >= (width, height)).any() or (box[:2] + box[2:] <= 0).any():
            raise BoxError(
                f"box: expected it in the frame of {width} x {height} pixels, got x, y, width, height = {box.tolist()}"
            )
        if not can_be_cropped(box):
            raise BoxError(
                f"box: expected a square root of the area from {SMALLEST} to {LARGEST} pixels, got x, y, width, "
                f"height = {box.tolist()}"
            )
        crop = self.config.template
        region = crop_region(box, crop.factor)
        if not region.holds_pixels(width, height):
            raise BoxError(f"box: its crop shows nothing of the frame of {width} x {height} pixels: {box.tolist()}")
        # A copy: the frame's owner may write to it.
        return crop_image(frame, region, crop.size).copy(), region.to_crop(box, crop.size)

    def track(self, frame: Image) -> Track:
        """Finds the target in the next frame.

        Args:
            frame: (height, width, 3) uint8, RGB, at least 10 pixels high and wide.

        Raises:
            FrameError: not such a frame.
            TypeError: the frame is not a uint8 array.
            RuntimeError: the tracker was not initialised.
            NonFiniteError: its network computes nothing that is finite.

        """
        regions, crops = self.search_crops(frame)
        return self.accept(frame, regions, self.locate(crops))

    def search_crops(self, frame: Image) -> tuple[list[CropRegion], Any]:
        """The first step of `track`: where each target is searched for, and the crops that the network sees.

        These are a list of (size, size, 3), or what a network makes of the frame that cuts them out on its device.
        """
        regions = self.search_regions(frame)
        return regions, search_crops(self.network, [(frame, regions)])

    def search_regions(self, frame: Image) -> list[CropRegion]:
        """Where each target is searched for; errors of a frame, or without a target, as of `track`."""
        _check_frame(frame)
        if self.boxes is None:
            raise RuntimeError(_NO_TARGET)
        return [crop_region(box, self.config.search.factor) for box in self.boxes]

    def locate(self, crops: Any) -> Located:
        """The second step of `track`: what the network sees in the crops."""
        return self.network(self.template, crops)

    def accept(self, frame: Image, regions: list[CropRegion], located: Located) -> Track:
        """The last step of `track`: boxes of the frame, which the next search starts from."""
        if not (np.isfinite(located.boxes).all() and np.isfinite(located.scores).all()):
            raise NonFiniteError("the network gave boxes that are not finite")
        size = self.config.search.size
        boxes = [region.to_frame(box, size, self.mapping) for region, box in zip(regions, located.boxes, strict=True)]
        self.boxes = clip_boxes(np.stack(boxes), frame.shape[1], frame.shape[0])
        self._means = next_mean(self._means, located.scores)
        states = states_of(self._means, self.config.certainty)
        track = Track(self.boxes.copy(), located.scores, located.divisions, regions, states)
        return Track(*(field[0] for field in track)) if self._one_target else track


def search_crops(network: Network, views: Sequence[View]) -> Any:
    """The crops of regions of frames: a list of (size, size, 3), or what the network makes of the frames itself."""
    if cut := getattr(network, "crops", None):
        return cut(views)
    return cut_views(views, network.config.search.size)


def _check_frame(frame: Image) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        got = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"frame: expected a NumPy array of uint8 (RGB), got {got}")
    if frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < CLIP_MARGIN:
        raise FrameError(
            f"frame: expected shape (height, width, 3), {CLIP_MARGIN} pixels or more each way, got {frame.shape}"
        )
