"""``python -m grm_kernels``: version, build, instruction set, and for every backend whether it can serve here."""

import platform

import torch

from . import __version__, cpu, explain, extension


def main() -> None:
    """Prints the report."""
    print(f"grm_kernels {__version__} on torch {torch.__version__}, Python {platform.python_version()}")
    print(f"compiled kernels: {extension.unavailable or extension.build()}")
    if cpu.instruction_set():
        available = ", ".join(cpu.instruction_sets())
        print(f"instruction set:  {cpu.instruction_set()} (of {available}; {cpu.ENVIRONMENT_VARIABLE} selects)")
    architectures = ", ".join(extension.CUDA_ARCHITECTURES)
    print(f"CUDA kernels:     {f'compiled for {architectures}' if architectures else 'not compiled'}")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        example = torch.empty(1, 1, 1, 64, device=device)
        name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
        print(f"backends for tensors on {device} ({name}), D = 64, {example.dtype}:")
        for backend, reasons in explain(example, needs_grad=True).items():
            print(f"  {backend:9s} {'no: ' + '; '.join(reasons) if reasons else 'yes'}")


if __name__ == "__main__":
    main()
