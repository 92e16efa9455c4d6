"""Typed configuration: what it may say, and how it is read from a preset or a file, with overrides.

A configuration is YAML. Unknown keys are refused, and the answer names the valid ones.
"""

from ..errors import ConfigError
from .data import DataConfig, DatasetConfig, DatasetKind, JitterConfig, SyntheticConfig
from .loading import load_config, overridden_model, parse_config, presets
from .model import (
    AttentionImplementation,
    CertaintyConfig,
    CropConfig,
    DivisionConfig,
    EncoderConfig,
    HeadConfig,
    ModelConfig,
    Variant,
)
from .schema import Config
from .training import LossConfig, TrainingConfig

__all__ = [
    "AttentionImplementation",
    "CertaintyConfig",
    "Config",
    "ConfigError",
    "CropConfig",
    "DataConfig",
    "DatasetConfig",
    "DatasetKind",
    "DivisionConfig",
    "EncoderConfig",
    "HeadConfig",
    "JitterConfig",
    "LossConfig",
    "ModelConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "Variant",
    "load_config",
    "overridden_model",
    "parse_config",
    "presets",
]
