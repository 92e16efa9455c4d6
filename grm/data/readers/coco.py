"""COCO 2017: `annotations/instances_train2017.json` and `train2017/000000000009.jpg` (or `images/train2017/`).

Every object is a sequence of one frame. Crowds, and boxes without an area, are left out. Needs pycocotools.
"""

from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np

from ...boxes import Boxes
from ...errors import DataError
from ..sequence import Annotation, ImageSequence, Sequences


class CocoObject(ImageSequence):
    """One object in one image."""

    def __init__(self, path: Path, name: str, box: Boxes) -> None:
        super().__init__(name)
        self._path, self._box = path, box

    def path(self, index: int) -> Path:
        """The file of the object's image, whatever the index."""
        return self._path

    def read_annotation(self) -> Annotation:
        """Its box, which is in sight."""
        return Annotation(self._box[None], np.ones(1, dtype=bool))


def coco_paths(root: Path, split: str, named: bool) -> list[Path]:
    """What has to be there to list the objects."""
    return [root, _annotation_path(root, split), _image_folder(root, split)]


def coco(root: Path, split: str, names: list[str] | None) -> Sequences[int]:
    """The objects of COCO, in the order of the annotation file.

    Args:
        root: see above.
        split: "train" or "val".
        names: take the objects of these images only: their file names.

    Raises:
        DataError: pycocotools is not installed, or the annotation file cannot be read.

    """
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise DataError("reading COCO needs pycocotools: pip install 'grm-kernels[training]'") from None
    path = _annotation_path(root, split)
    try:
        with redirect_stdout(StringIO()):
            annotation = COCO(path)
        files = {identity: image["file_name"] for identity, image in annotation.imgs.items()}
        chosen = None if names is None else set(names)
        objects = [
            (item["image_id"], item["id"], *item["bbox"])
            for item in annotation.anns.values()
            if not item["iscrowd"]
            and min(item["bbox"][2:]) > 0
            and (chosen is None or files[item["image_id"]] in chosen)
        ]
        images = sorted({item[0] for item in objects})
        # Arrays, not objects: the workers of a data loader share them, and there are 850,000.
        file_of_image = np.array([files[image] for image in images], dtype=np.bytes_)
        table = np.array([item[:2] for item in objects], dtype=np.int64).reshape(len(objects), 2)
        boxes = np.array([item[2:] for item in objects], dtype=np.float64).reshape(len(objects), 4)
        places = np.searchsorted(images, table[:, 0])
    except (AssertionError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not COCO's object annotations: {type(error).__name__}: {error}") from None
    if not objects:
        raise DataError(f"{path}: no object is left of {len(annotation.anns)}")
    open_one = partial(_open, _image_folder(root, split), file_of_image, places, table[:, 1], boxes)
    return Sequences(range(len(objects)), open_one, still=True)


def _open(folder: Path, files: np.ndarray, places: np.ndarray, ids: np.ndarray, boxes: Boxes, index: int) -> CocoObject:
    file = files[places[index]].decode()
    return CocoObject(folder / file, f"{file} object {ids[index]}", boxes[index])


def _annotation_path(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _image_folder(root: Path, split: str) -> Path:
    nested = root / "images" / f"{split}2017"
    return nested if nested.exists() else root / f"{split}2017"
