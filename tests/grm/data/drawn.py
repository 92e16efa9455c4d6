"""What is drawn of rendered video, by pixels."""

import numpy as np


def opacity(sprite, frame, pad=100, width=320, height=240):
    """Share of each pixel that a sprite hides in one frame, over the frame with a border of `pad` pixels.

    A colour c over black is o c, over white o c + (1 - o) 255.
    """
    sprite = sprite.placed(sprite.motion.center + pad)
    drawn = []
    for background in (0, 255):
        canvas = np.full((height + 2 * pad, width + 2 * pad, 3), background, dtype=np.uint8)
        sprite.draw(canvas, frame)
        drawn.append(canvas.astype(np.float64).mean(-1))
    return 1 - (drawn[1] - drawn[0]) / 255
