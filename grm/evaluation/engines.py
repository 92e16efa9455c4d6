"""Trackers of ours in the evaluation toolkits of others: that of GOT-10k, and those that speak TraX, as VOT's does.

    from got10k.experiments import ExperimentGOT10k
    import grm
    from grm.evaluation.engines import Got10kTracker
    ExperimentGOT10k("data/GOT-10k", subset="val").run(Got10kTracker(grm.Tracker(grm.load_model())))

For VOT's toolkit a module such as this is the `command` of the tracker in its `trackers.ini`, with
`protocol = traxpython` and the module's folder in `paths`:

    import grm
    from grm.evaluation.engines import serve_trax
    serve_trax(grm.Tracker(grm.load_model()))
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..crop import Image
from ..errors import MediaError
from ..media.images import eight_bits, read_image
from .runner import FrameTracker

if TYPE_CHECKING:
    from trax import Server


class Got10kTracker:
    """What the experiments of the `got10k` package run: a name, and boxes of the frames of a sequence.

    Args:
        tracker: of one target.
        name: that results are kept under.

    """

    #: One run is as good as three.
    is_deterministic = True

    def __init__(self, tracker: FrameTracker, name: str = "GRM") -> None:
        self.tracker, self.name = tracker, name

    def init(self, image: Any, box: Boxes) -> None:
        """Shows it its target: an RGB image of Pillow or (height, width, 3), and a box (4,) x, y, width, height."""
        self.tracker.initialize(np.asarray(image), box)

    def update(self, image: Any) -> Boxes:
        """(4,) the box in the next image."""
        return self.tracker.track(np.asarray(image)).box

    def track(self, img_files: Sequence[str], box: Boxes, visualize: bool = False) -> tuple[Boxes, NDArray[np.float64]]:
        """Tracks a sequence of image files.

        Args:
            img_files: paths of the N frames.
            box: (4,) in the first.
            visualize: not used: `grm track` draws.

        Returns:
            (N, 4) boxes, the first as given, and (N,) seconds that each frame took, its reading not counted.

        """
        boxes, seconds = np.empty((len(img_files), 4)), np.empty(len(img_files))
        boxes[0] = box
        for number, path in enumerate(img_files):
            image = read_image(Path(path))
            start = time.perf_counter()
            if number == 0:
                self.init(image, boxes[0])
            else:
                boxes[number] = self.update(image)
            seconds[number] = time.perf_counter() - start
        return boxes, seconds


def serve_trax(tracker: FrameTracker, name: str = "GRM") -> None:
    """Answers a TraX client, such as VOT's toolkit, until it ends the session. Needs the package `vot-trax`.

    A session may have several targets. Answers are rectangles, each with the score as its `confidence`. What is wrong
    with a frame ends the session, with the reason.

    Args:
        tracker: of one target or several.
        name: told to the client.

    """
    from trax import Image as TraxImage
    from trax import Region, Server, TraxStatus

    images = [TraxImage.PATH, TraxImage.MEMORY]
    with Server([Region.RECTANGLE], images, tracker_name=name, multiobject=True) as server:
        while (request := server.wait()).type in (TraxStatus.INITIALIZE, TraxStatus.FRAME):
            frame = _image_of(request.image)
            if request.type == TraxStatus.INITIALIZE:
                boxes = np.array([region.bounds() for region, _ in request.objects], dtype=np.float64)
                tracker.initialize(frame, boxes)
                _answer(server, boxes, None)
            else:
                found = tracker.track(frame)
                _answer(server, found.box, getattr(found, "score", None))


def _image_of(images: Any) -> Image:
    """The colour image of a request."""
    from trax import FileImage, ImageChannel, MemoryImage

    image = images[ImageChannel.COLOR]
    if isinstance(image, FileImage):
        return read_image(Path(image.path()))
    if not isinstance(image, MemoryImage):
        raise MediaError(f"expected a file or an image in memory, got {type(image).__name__}")
    pixels = eight_bits(image.array())
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8)


def _answer(server: "Server", boxes: Boxes, scores: Any) -> None:
    from trax import Rectangle

    certain = [{}] * len(boxes) if scores is None else [{"confidence": float(score)} for score in scores]
    server.status([(Rectangle.create(*box), one) for box, one in zip(boxes.tolist(), certain, strict=True)])
