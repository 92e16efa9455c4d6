"""Devices by name."""

import torch

from .errors import ConfigError


def find_device(name: str) -> str:
    """The device that a name stands for, looked for on this machine.

    Args:
        name: "cpu", "cuda", "cuda:1", ...; "auto" is a GPU if there is one.

    Raises:
        ConfigError: it is none of these, or not there.

    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:NUMBER, got {name}")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if int(index or 0) >= count:
        raise ConfigError(f"device: {name} was asked for, but torch sees {count or 'no'} such device")
    return name
