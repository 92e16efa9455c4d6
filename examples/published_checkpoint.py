"""Loads a published GRM checkpoint, saves it as a file of ours, and tracks a few rendered frames with that.

    python examples/published_checkpoint.py CHECKPOINT [CONFIG [OUTPUT.safetensors]]

CONFIG is the preset that the checkpoint was trained with (grm_b256, grm_b256_got or grm_l320), or a YAML file; the new
file holds it. The checkpoint is a pickle, which is read without calling or importing anything that it names.
"""

import sys

import numpy as np

import grm
from grm.config import SyntheticConfig
from grm.data import synthetic_sequence
from grm.model import GRM, load_weights, save_weights

CATEGORIES = "TSA"


def main(checkpoint: str, config: str = "grm_b256", output: str = "converted.safetensors") -> GRM:
    """Converts the checkpoint, and returns the model that the new file holds."""
    model = GRM(grm.load_config(config).model)
    load_weights(model, checkpoint)  # every tensor has to be there and to fit
    save_weights(model, output)
    model = grm.load_model(output)  # and needs no configuration beside it
    print(f"{output}: {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million parameters")

    clip = synthetic_sequence(SyntheticConfig(), seed=3)
    tracker = grm.Tracker(model)
    tracker.initialize(clip.frame(0), clip.boxes[0])
    for index in range(1, 4):
        box, score, division, *_ = tracker.track(clip.frame(index))
        shares = np.bincount(division[-1].flatten(), minlength=3) / division[-1].size
        told = ", ".join(f"{share:.0%} {name}" for name, share in zip(CATEGORIES, shares, strict=True) if share)
        print(f"frame {index}: x, y, w, h = {np.round(box, 1).tolist()}, score {score:.2f}, last layer {told}")
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
