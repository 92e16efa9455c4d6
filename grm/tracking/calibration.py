"""Layers whose division never changes (the paper's appendix C.2): found on videos, then fixed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grm_kernels import Category

from ..config import ModelConfig
from ..model import GRM, reconfigured


class Calibration(NamedTuple):
    """What layers did with the search tokens over the frames of a calibration run."""

    frames: int
    #: Dividing layer, counted from 1, to the lowest, mean and highest share of A tokens of a frame.
    shares: dict[int, tuple[float, float, float]]
    #: Those in which every token of every frame was of one category, S or A.
    fixed: dict[int, str]


def calibrate(divisions: NDArray[np.uint8], config: ModelConfig) -> Calibration:
    """Finds the layers whose division modules could be left out without a change to any of these frames.

    Args:
        divisions: (frames, layers, F, F), of one run or several.
        config: of the model that made them.

    Raises:
        ValueError: no frames, or not those of this model.

    """
    expected = (config.encoder.depth, config.search_side, config.search_side)
    if divisions.ndim != 4 or divisions.shape[1:] != expected or len(divisions) == 0:
        raise ValueError(f"divisions: expected shape (frames, {', '.join(map(str, expected))}), got {divisions.shape}")
    shares, fixed = {}, {}
    for layer in config.division_layers:
        layer_divisions = divisions[:, layer - 1]
        share = (layer_divisions == Category.A).mean(axis=(1, 2))
        shares[layer] = (float(share.min()), float(share.mean()), float(share.max()))
        for category in (Category.S, Category.A):
            if (layer_divisions == category).all():
                fixed[layer] = category.name
    return Calibration(len(divisions), shares, fixed)


def fix_layers(model: GRM, fixed: dict[int, str]) -> GRM:
    """A copy of a model in evaluation mode, in which layers have their search tokens all in S or all in A.

    Their division modules keep their weights and are not run.

    Args:
        model: not prepared for inference.
        fixed: layer, counted from 1, to "S" or "A"; replaces what the model had.

    """
    return reconfigured(model, [f"model.division.fixed={fixed}"])
