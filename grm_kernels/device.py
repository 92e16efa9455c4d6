"""Facts of a GPU that more than one backend asks for."""

import contextlib

import torch
from torch import Tensor

#: KiB of shared memory that a block may use, by compute capability.
SHARED_KIB = {
    (8, 0): 163,
    (8, 6): 99,
    (8, 7): 163,
    (8, 9): 99,
    (9, 0): 227,
    (10, 0): 227,
    (10, 3): 227,
    (12, 0): 99,
    (12, 1): 99,
}


def is_nvidia_gpu(device: torch.device) -> bool:
    """Whether tensors on `device` lie on an NVIDIA GPU that torch can use."""
    return device.type == "cuda" and torch.cuda.is_available() and not torch.version.hip


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; the interpreter on the CPU stands for 8.0."""
    if device.type != "cuda":
        return 8, 0
    properties = torch.cuda.get_device_properties(device)  # a constant to torch.compile, unlike get_device_capability
    return properties.major, properties.minor


def name_of(*capabilities: tuple[int, int]) -> str:
    """Compute capabilities in words: "8.0, 9.0"."""
    return ", ".join("{}.{}".format(*pair) for pair in capabilities)


def current(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Makes the tensor's device the one that kernels are launched on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
