"""OTB100: `NAME/img/0001.jpg`, `NAME/groundtruth_rect.txt`; with two targets `groundtruth_rect.1.txt` and `.2.txt`."""

from pathlib import Path

from ..sequence import Sequences
from .annotations import check_named
from .frame_folder import FrameFolder, Span, named_spans

_BOXES = "groundtruth_rect"
# The boxes of these are of some of the images only, as the page of the data set says.
_SPANS = {
    "David": Span(300, 770),
    "Diving": Span(1, 215),
    "Football1": Span(1, 74),
    "Freeman3": Span(1, 460),
    "Freeman4": Span(1, 283),
}


def otb_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def otb(root: Path, split: str, names: list[str] | None) -> Sequences[tuple[str, Path, Span | None]]:
    """The sequences of OTB100. The second target of Jogging is called `Jogging_2`.

    Args:
        root: folder of the sequences.
        split: not used: there is one.
        names: take these only: `NAME`, or `NAME FIRST LAST` where the boxes are of these images of the folder only.

    Raises:
        DataError: a sequence that is named is not there.

    """
    known = {}
    for path in sorted(root.glob(f"*/{_BOXES}*.txt")):
        target = path.name.removeprefix(_BOXES).removesuffix(".txt").removeprefix(".")
        # Human4 has a second target alone: the file of its first is empty.
        if path.stat().st_size:
            known[f"{path.parent.name}_{target}" if target else path.parent.name] = path
    spans = {name: (name, None) for name in known} if names is None else named_spans(names)
    check_named(root, spans, known)
    keys = [(name, known[name], span or _SPANS.get(name)) for name, (_, span) in spans.items()]
    return Sequences(keys, _open)


def _open(key: tuple[str, Path, Span | None]) -> FrameFolder:
    name, boxes, span = key
    return FrameFolder(name, boxes.parent / "img", boxes, span=span)
