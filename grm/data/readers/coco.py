"""COCO 2017: `annotations/instances_train2017.json` and `train2017/000000000009.jpg` (or `images/train2017/`).

Every object is a sequence of one frame. Crowds, and boxes without an area, are left out.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...boxes import FARTHEST, Boxes
from ...errors import DataError, shown
from ..sequence import Annotation, ImageSequence, Sequences
from .annotations import check_named


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

    An annotation that is broken is left out, and said so in the `faults` of what is returned.

    Args:
        root: see above.
        split: "train" or "val".
        names: take the objects of these images only: their file names.

    Raises:
        DataError: the annotation file cannot be read or lacks an image that is named, or no object is left of it.

    """
    path = _annotation_path(root, split)
    images, annotations, faults = _read(path)
    chosen = None if names is None else set(names)
    if names is not None:
        check_named(path, names, set(images.values()))
    objects = []
    for place, annotation in enumerate(annotations):
        if fault := _fault(annotation, images):
            name = annotation.get("id", f"number {place}") if isinstance(annotation, dict) else f"number {place}"
            faults.append(f"{path}: annotation {shown(name)}: {fault}; left out")
        elif (
            not annotation.get("iscrowd", 0)
            and min(annotation["bbox"][2:]) > 0
            and (chosen is None or images[annotation["image_id"]] in chosen)
        ):
            objects.append((annotation["image_id"], annotation["id"], *annotation["bbox"]))
    if not objects:
        reason = f"; {len(faults)} left out, first: {faults[0].removeprefix(f'{path}: ')}" if faults else ""
        raise DataError(f"{path}: no object is left of {len(annotations)}{reason}")
    used = sorted({item[0] for item in objects})
    # Arrays, not objects: the workers of a data loader share them, and there are 850,000.
    file_of_image = np.array([images[image].encode() for image in used], dtype=np.bytes_)
    table = np.array([item[:2] for item in objects], dtype=np.int64)
    boxes = np.array([item[2:] for item in objects], dtype=np.float64)
    places = np.searchsorted(used, table[:, 0])
    open_one = partial(_open, _image_folder(root, split), file_of_image, places, table[:, 1], boxes)
    return Sequences(range(len(objects)), open_one, still=True, faults=faults)


def _read(path: Path) -> tuple[dict[int, str], list[Any], list[str]]:
    """File names of the images by their numbers, the annotations as they are, and what is wrong with images."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not COCO's object annotations: {shown(error)}") from None
    listed, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if not isinstance(listed, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: not COCO's object annotations: expected lists of images and annotations")
    images: dict[int, str] = {}
    faults: list[str] = []
    for place, image in enumerate(listed):
        known = isinstance(image, dict) and _is_number(image.get("id")) and isinstance(image.get("file_name"), str)
        if known and image["file_name"].isprintable():
            images[image["id"]] = image["file_name"]
        else:
            faults.append(f"{path}: image number {place}: expected an id and a file name; left out")
    return images, annotations, faults


def _fault(annotation: Any, images: dict[int, str]) -> str | None:
    """What is wrong with an annotation; None: nothing."""
    if not isinstance(annotation, dict) or not _is_number(annotation.get("id")):
        return "it has no number"
    if not _is_number(annotation.get("image_id")) or annotation["image_id"] not in images:
        return f"there is no image {shown(annotation.get('image_id'))}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
        return f"expected a box of four numbers, got {shown(box)}"
    # A number beyond any picture is none; whole ones may be too large for a float.
    return None if all(abs(x) < FARTHEST for x in box) else f"expected finite numbers, got the box {shown(box)}"


def _is_number(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _open(folder: Path, files: np.ndarray, places: np.ndarray, ids: np.ndarray, boxes: Boxes, index: int) -> CocoObject:
    file = files[places[index]].decode()
    return CocoObject(folder / file, f"{file} object {ids[index]}", boxes[index])


def _annotation_path(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _image_folder(root: Path, split: str) -> Path:
    nested = root / "images" / f"{split}2017"
    return nested if nested.exists() else root / f"{split}2017"
