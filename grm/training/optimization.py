"""The optimiser and its learning rates, as in the paper's Section 4.1."""

import math

import torch

from ..config import TrainingConfig
from ..model import GRM
from ..model.efficientnet import EfficientNetStem


def make_optimizer(model: GRM, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over groups with rates of their own: the encoder, head and division modules, and a pretrained stem if any.

    Weights that need no gradient (division modules of fixed layers, the stem's first blocks) are in none. All are
    decayed, norms and biases included, as published.
    """
    stem = model.encoder.stem
    own = set(stem.pretrained_parameters()) if isinstance(stem, EfficientNetStem) else set()
    encoder, new, pretrained_stem = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter in own:
            pretrained_stem.append(parameter)
        else:
            pretrained = name.startswith("encoder.") and ".division." not in name
            (encoder if pretrained else new).append(parameter)
    groups = [
        {"params": encoder, "base_lr": config.encoder_learning_rate},
        {"params": new, "base_lr": config.learning_rate},
    ]
    if pretrained_stem:
        groups.append({"params": pretrained_stem, "base_lr": config.stem_learning_rate})
    # One kernel for all weights: on two CPU cores half the time of a kernel for each operation.
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, epoch_steps: int) -> None:
    """Sets the rates of a step, which depend on nothing but its number (from 0)."""
    factor = learning_rate_factor(config, step, epoch_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rate_factor(config: TrainingConfig, step: int, epoch_steps: int) -> float:
    """What the configured rates are multiplied with in a step (from 0), at `epoch_steps` steps to an epoch."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.epochs * epoch_steps - config.warmup)
        return (1 + math.cos(math.pi * progress)) / 2
    return 0.1 ** sum(step >= milestone * epoch_steps for milestone in config.milestones)
