"""GOT-10k: `train/GOT-10k_Train_000001/00000001.jpg`, `groundtruth.txt`, `absence.label`, `cover.label`; `list.txt`.

Splits val and test lie beside train. The test split has the first box only and no labels.
"""

from functools import partial
from pathlib import Path

from ...boxes import has_box
from ...media.images import list_frames
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import check_named, pad_boxes, read_boxes, read_integers, read_lines


class Got10kSequence(ImageSequence):
    """One video of GOT-10k. Visible: not absent, covered for less than all of it, and the box has an area."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.name)
        self.folder = folder

    def path(self, index: int) -> Path:
        """The file of frame `index`, from `00000001.jpg` on."""
        return self.folder / f"{index + 1:08d}.jpg"

    def read_annotation(self) -> Annotation:
        """`groundtruth.txt`, `absence.label` and `cover.label`; of the test split, the first box alone."""
        boxes = read_boxes(self.folder / "groundtruth.txt")
        if self.folder.parent.name == "test":
            boxes = pad_boxes(boxes[:1], len(list_frames(self.folder)))
            return Annotation(boxes, has_box(boxes))
        absent = read_integers(self.folder / "absence.label", len(boxes)) != 0
        # From 0, nothing of it is seen, to 8, all of it.
        cover = read_integers(self.folder / "cover.label", len(boxes))
        return Annotation(boxes, has_box(boxes) & ~absent & (cover > 0))


def got10k_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root / split, root / split / "list.txt"]


def got10k(root: Path, split: str, names: list[str] | None) -> Sequences[str]:
    """The sequences of GOT-10k.

    Args:
        root: folder of the splits.
        split: "train", "val" or "test".
        names: take these only: names, or their places in `list.txt` counted from 0, as published splits have them.

    Raises:
        DataError: the list of the split cannot be read, or a sequence that is named is not in it.

    """
    listed = read_lines(root / split / "list.txt")
    if names is not None:
        known = {name: name for name in listed} | {str(place): name for place, name in enumerate(listed)}
        check_named(root / split / "list.txt", names, known)
        listed = [known[name] for name in names]
    return Sequences(listed, partial(_open, root / split))


def _open(folder: Path, name: str) -> Got10kSequence:
    return Got10kSequence(folder / name)
