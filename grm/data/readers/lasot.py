"""LaSOT: `class/class-N/img/00000001.jpg`, `groundtruth.txt`, `full_occlusion.txt`, `out_of_view.txt`.

Its extension is laid out alike. The folders of the classes may be left out.
"""

from functools import partial
from pathlib import Path

from ...boxes import has_box
from ...errors import DataError
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import read_boxes, read_integers, read_lines
from .lasot_split import lasot_names

#: The lists that are in the data set's archives, not in those of the classes.
LISTS = {"train": "training_set.txt", "test": "testing_set.txt"}
#: Files of flags, one a frame, beside the boxes: where one is 1 the target is not visible.
FLAGS = ("full_occlusion.txt", "out_of_view.txt")


class LasotSequence(ImageSequence):
    """One video of LaSOT. Visible: neither flag is set and the box has an area."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(name)
        self.folder = folder

    def path(self, index: int) -> Path:
        """The file of frame `index`, from `img/00000001.jpg` on."""
        return self.folder / "img" / f"{index + 1:08d}.jpg"

    def read_annotation(self) -> Annotation:
        """`groundtruth.txt` and both flags."""
        boxes = read_boxes(self.folder / "groundtruth.txt")
        visible = has_box(boxes)
        for flag in FLAGS:
            visible &= read_integers(self.folder / flag, len(boxes)) == 0
        return Annotation(boxes, visible)


def lasot_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def lasot(root: Path, split: str, names: list[str] | None) -> Sequences[str]:
    """The sequences of LaSOT.

    Args:
        root: folder of the classes.
        split: "train" or "test" (by the lists that come with the data set, or where they are not there, by
            `lasot_names`), or "all".
        names: take these ("airplane-1") instead.

    Raises:
        DataError: the list of the split cannot be read; or it is not there, nor any sequence.

    """
    if names is None:
        if split == "all":
            found = [*root.glob("*/*-*"), *root.glob("*-*")]
            names = sorted(folder.name for folder in found if (folder / "groundtruth.txt").is_file())
        elif (root / LISTS[split]).exists():
            names = read_lines(root / LISTS[split])
        else:
            names = lasot_names(split)
            if not any(_folder(root, name).is_dir() for name in names):
                raise DataError(f"{root}: holds neither {LISTS[split]} nor a sequence of {split}")
    return Sequences(names, partial(_open, root))


def _open(root: Path, name: str) -> LasotSequence:
    return LasotSequence(_folder(root, name), name)


def _folder(root: Path, name: str) -> Path:
    """Where a sequence is, in the folder of its class or beside the others."""
    nested, flat = root / name.rpartition("-")[0] / name, root / name
    return flat if flat.is_dir() and not nested.is_dir() else nested
