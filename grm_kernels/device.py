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


# Asked once of each device: torch takes microseconds to answer. What is traced asks for itself, because the answer
# becomes a constant there and a dictionary would become a guard.
_CAPABILITIES: dict[torch.device, tuple[int, int]] = {}


def is_nvidia_gpu(device: torch.device) -> bool:
    """Whether tensors on `device` lie on an NVIDIA GPU that torch can use."""
    if device.type != "cuda":
        return False
    if not torch.compiler.is_compiling() and device in _CAPABILITIES:
        return True
    return torch.cuda.is_available() and not torch.version.hip


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; the interpreter on the CPU stands for 8.0."""
    if device.type != "cuda":
        return 8, 0
    if torch.compiler.is_compiling():
        # A constant to torch.compile, unlike get_device_capability.
        properties = torch.cuda.get_device_properties(device)
        return properties.major, properties.minor
    if device not in _CAPABILITIES:
        _CAPABILITIES[device] = torch.cuda.get_device_capability(device)
    return _CAPABILITIES[device]


def name_of(*capabilities: tuple[int, int]) -> str:
    """Compute capabilities in words: "8.0, 9.0"."""
    return ", ".join("{}.{}".format(*pair) for pair in capabilities)


def current(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Makes the tensor's device the one that kernels are launched on."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
