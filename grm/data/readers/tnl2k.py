"""TNL2K: `NAME/imgs/*.jpg` and `NAME/groundtruth.txt`."""

from functools import partial
from pathlib import Path

from ..sequence import Sequences
from .frame_folder import FrameFolder

_BOXES = "groundtruth.txt"


def tnl2k_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def tnl2k(root: Path, split: str, names: list[str] | None) -> Sequences[str]:
    """The sequences of TNL2K.

    Args:
        root: folder of the sequences of the split.
        split: not used: the splits are folders of their own.
        names: take these only.

    """
    if names is None:
        names = sorted(path.parent.name for path in root.glob(f"*/{_BOXES}"))
    return Sequences(names, partial(_open, root))


def _open(root: Path, name: str) -> FrameFolder:
    images = root / name / "imgs"
    return FrameFolder(name, images if images.is_dir() else root / name / "img", root / name / _BOXES)
