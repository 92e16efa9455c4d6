"""Small data sets on disk, in the layouts of the real ones. A frame's pixels tell which one it is."""

import json

import cv2
import numpy as np

WIDTH, HEIGHT = 48, 40


def write_frame(path, shade, width=WIDTH, height=HEIGHT):
    """An image of one colour: red = shade, green = 255 - shade, blue = 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 2], image[..., 1] = shade, 255 - shade
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


def shade_of(image):
    """The shade that a frame was written with."""
    assert image.dtype == np.uint8 and image.shape[2] == 3
    red, green, blue = image.reshape(-1, 3).mean(0)
    assert abs(red + green - 255) < 3 and blue < 3
    return round(float(red))


def boxes_of(count):
    """Box i is at (i + 5, 6) and 10 x 12 large."""
    return [[i + 5.0, 6.0, 10.0, 12.0] for i in range(count)]


def write_boxes(path, boxes, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(f"{value:g}" for value in box) + "\n" for box in boxes))


def write_lasot(root, names, count=25, occluded=(), outside=()):
    for name in names:
        folder = root / name.rpartition("-")[0] / name
        for i in range(count):
            write_frame(folder / "img" / f"{i + 1:08d}.jpg", 10 * i % 250)
        write_boxes(folder / "groundtruth.txt", boxes_of(count))
        for file, where in (("full_occlusion.txt", occluded), ("out_of_view.txt", outside)):
            (folder / file).write_text(",".join(str(int(i in where)) for i in range(count)))
    (root / "training_set.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def write_trackingnet(root, parts, count=65):
    """`parts`: {"TRAIN_0": ["video", ...]}."""
    for part, videos in parts.items():
        for video in videos:
            for i in range(count):
                write_frame(root / part / "frames" / video / f"{i}.jpg", 3 * i)
            write_boxes(root / part / "anno" / f"{video}.txt", boxes_of(1 if part == "TEST" else count))
    return root


def write_got10k(root, split, count=25, sequences=2, absent=(), covered=()):
    names = [f"GOT-10k_{split.title()}_{i + 1:06d}" for i in range(sequences)]
    for name in names:
        folder = root / split / name
        for i in range(count):
            write_frame(folder / f"{i + 1:08d}.jpg", 10 * i % 250)
        write_boxes(folder / "groundtruth.txt", boxes_of(1 if split == "test" else count))
        if split != "test":
            (folder / "absence.label").write_text("".join(f"{int(i in absent)}\n" for i in range(count)))
            (folder / "cover.label").write_text("".join(f"{0 if i in covered else 8}\n" for i in range(count)))
    (root / split / "list.txt").write_text("\n".join(names))
    return names


def write_coco(root, objects, nested=True):
    """`objects`: (image id, box, is crowd) each."""
    folder = root / "images" / "train2017" if nested else root / "train2017"
    images = sorted({image for image, _, _ in objects})
    for image in images:
        write_frame(folder / f"{image:012d}.jpg", image)
    annotation = {
        "info": {},
        "categories": [{"id": 1, "name": "thing"}],
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in images],
        "annotations": [
            {"id": 100 + i, "image_id": image, "category_id": 1, "bbox": box, "iscrowd": int(crowd), "area": 1}
            for i, (image, box, crowd) in enumerate(objects)
        ],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(annotation))
    return root


def write_folder(folder, count=25, name="{:08d}.jpg", boxes=None, separator=","):
    for i in range(count):
        write_frame(folder / name.format(i + 1), 10 * i % 250)
    write_boxes(folder / "groundtruth.txt", boxes_of(count) if boxes is None else boxes, separator)
    return folder


def write_cutouts(folder):
    """An ellipse (80 x 40) and a box (30 x 60), opaque, in larger transparent images; and what is no cut-out."""
    folder.mkdir(parents=True)
    ellipse = np.zeros((100, 120, 4), dtype=np.uint8)
    cv2.ellipse(ellipse, (60, 50), (40, 20), 0, 0, 360, (20, 60, 200, 255), cv2.FILLED)
    box = np.zeros((100, 100, 4), dtype=np.uint8)
    box[20:80, 40:70] = (200, 60, 20, 255)
    tiny = np.zeros((40, 40, 4), dtype=np.uint8)
    tiny[10:20, 10:20] = 255
    for name, image in (("ellipse", ellipse), ("rectangle", box), ("tiny", tiny), ("opaque", box[..., :3])):
        assert cv2.imwrite(str(folder / f"{name}.png"), image)
    return folder
