"""ITB: `SCENE/VIDEO/*.jpg` and `SCENE/VIDEO/groundtruth.txt`."""

from collections import Counter
from functools import partial
from pathlib import Path

from ..sequence import Sequences
from .annotations import check_named
from .frame_folder import FrameFolder

_BOXES = "groundtruth.txt"


def itb_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the sequences."""
    return [root]


def itb(root: Path, split: str, names: list[str] | None) -> Sequences[tuple[str, str]]:
    """The sequences of ITB. Each is called as its video; with the scene in front where two scenes share a name.

    Args:
        root: folder of the scenes.
        split: not used: there is one.
        names: take these only.

    Raises:
        DataError: a sequence that is named is not there.

    """
    folders = sorted(path.parent for path in root.glob(f"*/*/{_BOXES}"))
    videos = Counter(folder.name for folder in folders)
    known = {
        folder.name if videos[folder.name] == 1 else f"{folder.parent.name}_{folder.name}": str(
            folder.relative_to(root)
        )
        for folder in folders
    }
    check_named(root, names or (), known, "video")
    return Sequences([(name, known[name]) for name in (known if names is None else names)], partial(_open, root))


def _open(root: Path, key: tuple[str, str]) -> FrameFolder:
    name, folder = key
    images = root / folder / "img"
    return FrameFolder(name, images if images.is_dir() else root / folder, root / folder / _BOXES)
