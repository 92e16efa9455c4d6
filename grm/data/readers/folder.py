"""A plain folder: frames as image files, there or in `img`, and `groundtruth.txt` with x, y, width, height of each.

LaSOT's two files of flags are read where they are there. NaN, or a box without an area: the target is absent.
"""

from pathlib import Path

from ...media.images import image_folder
from ..sequence import Sequences
from .annotations import check_named
from .frame_folder import FrameFolder
from .lasot import FLAGS

BOXES = "groundtruth.txt"


class FolderSequence(FrameFolder):
    """The images of one folder, or of its folder `img`. One box alone is the first frame's."""

    def __init__(self, folder: Path) -> None:
        flags = [folder / flag for flag in FLAGS if (folder / flag).exists()]
        super().__init__(folder.absolute().name, image_folder(folder), folder / BOXES, flags)


def folder_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def folder(root: Path, split: str, names: list[str] | None) -> Sequences[Path]:
    """The sequence that a folder is, or those that its folders are.

    Args:
        root: has `groundtruth.txt`, or folders that have it.
        split: not used: there is one.
        names: take these folders only.

    Raises:
        DataError: one of them is not there.

    """
    if names is not None:
        check_named(root, names, {name for name in names if (root / name / BOXES).exists()})
        keys = [root / name for name in names]
    elif (root / BOXES).exists():
        keys = [root]
    else:
        keys = sorted(path.parent for path in root.glob(f"*/{BOXES}"))
    return Sequences(keys, FolderSequence)
