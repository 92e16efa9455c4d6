"""Renders a clip, tracks it with the weights of the package, and writes a video with the boxes.

    python examples/track_clip.py [OUTPUT.mp4 [FRAMES]]

For a video of your own: `grm.media.frames.open_frames("clip.mp4")` gives its frames, and you its first box.
"""

import sys
from fractions import Fraction

import grm
from grm.boxes import iou
from grm.config import SyntheticConfig
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.drawing import draw_boxes
from grm.media.writer import VideoWriter


def main(output: str = "tracked.mp4", frames: int = 80) -> float:
    """Tracks, and returns the mean overlap with the truth over all frames but the first."""
    clip = synthetic_sequence(SyntheticConfig(), HELD_OUT + 100)  # held out from training
    tracker = grm.Tracker(grm.load_model())
    tracker.initialize(clip.frame(0), clip.boxes[0])  # x, y, width, height in pixels
    overlaps = []
    with VideoWriter(output, Fraction(30)) as video:
        for index in range(1, min(frames, len(clip))):
            frame = clip.frame(index)  # (height, width, 3) uint8, RGB
            found = tracker.track(frame)
            overlaps.append(float(iou(found.box, clip.boxes[index])))
            video.write(draw_boxes(frame, found.box[None], [f"{found.score:.2f}"]))
    mean = sum(overlaps) / len(overlaps)
    print(f"{output}: {len(overlaps)} frames, mean overlap {mean:.3f}")
    return mean


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
