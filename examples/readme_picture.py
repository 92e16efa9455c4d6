"""Draws the picture of README: a row of frames with the tracked box, and what two layers make of the search region.

    python examples/readme_picture.py CLIP OUTPUT.jpg

CLIP is a folder of frames with groundtruth.txt, or a video with its box in the third argument: x,y,w,h.
"""

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np

import grm
from grm.crop import crop_image
from grm.data.readers.annotations import read_boxes
from grm.drawing import darken_separate, draw_boxes
from grm.evaluation.runner import follow
from grm.media.frames import open_frames

FRAMES, LAYERS, WIDTH = (10, 40, 70, 100), (3, 6), 300


def column(step: "object", layers: tuple[int, ...]) -> np.ndarray:
    """One frame with its box, and below it the search region as the layers divide it: S tokens dark."""
    frame = draw_boxes(step.frame, step.result.box[None], [f"frame {step.number}"])
    height = round(frame.shape[0] * WIDTH / frame.shape[1])
    side = WIDTH // len(layers)
    crop = crop_image(step.frame, step.result.region, side)
    tiles = [darken_separate(crop, step.result.division[layer - 1]) for layer in layers]
    return np.vstack([cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA), np.hstack(tiles)])


def main(clip: str, output: str, box: str | None = None) -> None:
    """Tracks the clip with the shipped weights and writes the picture."""
    first = np.array(box.split(","), float) if box else read_boxes(Path(clip) / "groundtruth.txt")[0]
    frames = itertools.islice(open_frames(clip), FRAMES[-1] + 1)
    steps = (step for step in follow(grm.Tracker(grm.load_model("tiny")), frames, first) if step.number in FRAMES)
    row = np.hstack([column(step, LAYERS) for step in steps])
    cv2.imwrite(output, cv2.cvtColor(row, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main(*sys.argv[1:])
