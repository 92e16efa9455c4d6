"""A plain folder: frames as image files, and `groundtruth.txt` with x, y, width, height of each.

LaSOT's two files of flags are read where they are there. NaN, or a box without an area: the target is absent.
"""

from pathlib import Path

from ...boxes import has_box
from ...errors import DataError
from ...media.images import list_frames
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import pad_boxes, read_boxes, read_integers
from .lasot import FLAGS

BOXES = "groundtruth.txt"


class FolderSequence(ImageSequence):
    """The images of one folder, in natural order. One box alone is the first frame's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.name)
        self.folder = folder
        self._files: list[str] | None = None

    @property
    def files(self) -> list[str]:
        """Names of the frames."""
        if self._files is None:
            self._files = list_frames(self.folder)
        return self._files

    def path(self, index: int) -> Path:
        """The file of frame `index`, in natural order."""
        return self.folder / self.files[index]

    def read_annotation(self) -> Annotation:
        """`groundtruth.txt`, and those of LaSOT's flags that are there."""
        boxes = read_boxes(self.folder / BOXES)
        if len(boxes) == 1:
            boxes = pad_boxes(boxes, len(self.files))
        if len(boxes) != len(self.files):
            raise DataError(f"{self.folder / BOXES}: {len(boxes)} boxes for {len(self.files)} images")
        visible = has_box(boxes)
        for flag in FLAGS:
            if (self.folder / flag).exists():
                visible &= read_integers(self.folder / flag, len(boxes)) == 0
        return Annotation(boxes, visible)


def folder_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def folder(root: Path, split: str, names: list[str] | None) -> Sequences[Path]:
    """The sequence that a folder is, or those that its folders are.

    Args:
        root: has `groundtruth.txt`, or folders that have it.
        split: not used: there is one.
        names: take these folders only.

    """
    if names is not None:
        keys = [root / name for name in names]
    elif (root / BOXES).exists():
        keys = [root]
    else:
        keys = sorted(path.parent for path in root.glob(f"*/{BOXES}"))
    return Sequences(keys, FolderSequence)
