"""The GRM model: `GRM`, what it gives (`Prediction`, `Division`), and its weights."""

from ..errors import WeightsError
from .division import Division
from .grm import GRM, Prediction, reconfigured
from .head import HeadMaps, decode_boxes
from .normalization import normalize_images
from .weights import (
    is_published,
    load_model,
    load_pretrained,
    load_pretrained_encoder,
    load_weights,
    reconfigure_weights,
    save_weights,
)

__all__ = [
    "GRM",
    "Division",
    "HeadMaps",
    "Prediction",
    "WeightsError",
    "decode_boxes",
    "is_published",
    "load_model",
    "load_pretrained",
    "load_pretrained_encoder",
    "load_weights",
    "normalize_images",
    "reconfigure_weights",
    "reconfigured",
    "save_weights",
]
