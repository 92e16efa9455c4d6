"""A model small enough to test by its equations, with weights that make it decide."""

import torch
from torch import nn

from grm.config import parse_config
from grm.model import GRM

SMALL = {
    "template": {"size": 32, "factor": 2},
    "search": {"size": 64, "factor": 4},
    "encoder": {"width": 32, "depth": 4, "heads": 2, "drop_path": 0},
    "division": {"hidden": [12, 6]},
    "head": {"channels": 16},
}


def small_config(*overrides):
    """Four layers, 4 template and 16 search tokens; overrides without the leading "model."."""
    return parse_config({"model": SMALL}, [f"model.{override}" for override in overrides]).model


def small_model(*overrides, seed=3):
    """A model of that configuration in evaluation mode; the same weights for the same seed, whatever the variant."""
    model = GRM(small_config(*overrides))
    randomize(model, seed)
    return model.eval()


def randomize(model, seed):
    """Weights with which activations keep their size, so that nothing is decided by rounding."""
    for name, tensor in model.state_dict().items():
        generator = torch.Generator().manual_seed(hash_of(name) + seed)
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.dim() > 1:
            gain = 0.5 if name.endswith("position") else (2 / tensor[0].numel()) ** 0.5
            tensor.copy_(gain * noise)
        elif name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.is_floating_point():
            is_scale = "norm" in name and name.endswith("weight")
            tensor.copy_(0.2 * noise + is_scale)
        if name.endswith("division.first.weight"):
            # What the search tokens differ in decides, rather than the template that they share.
            tensor[:, : tensor.shape[1] // 2] *= 4


def hash_of(name):
    """Of a name, the same in every process."""
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31


def images(batch=3, dtype=torch.float32, seed=1):
    """Template and search images for the small model."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda side: torch.randn(batch, 3, side, side, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(32), draw(64)


def division_parameters(model: nn.Module):
    """Name to parameter, of all division modules."""
    return {name: parameter for name, parameter in model.named_parameters() if ".division." in name}
