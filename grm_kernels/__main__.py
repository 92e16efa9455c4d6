"""``python -m grm_kernels``: version, build, instruction set, and for every backend whether it can serve here."""

import platform

import torch

from . import __version__, cpu, cuda, device, explain, extension, triton


def main() -> None:
    """Prints the report."""
    print(f"grm_kernels {__version__} on torch {torch.__version__}, Python {platform.python_version()}")
    print(f"compiled kernels: {extension.unavailable or extension.build()}")
    if cpu.instruction_set():
        available = ", ".join(cpu.instruction_sets())
        print(f"instruction set:  {cpu.instruction_set()} (of {available}; {cpu.ENVIRONMENT_VARIABLE} selects)")
    architectures = ", ".join(extension.CUDA_ARCHITECTURES)
    print(f"CUDA kernels:     {f'compiled for {architectures}' if architectures else 'not compiled'}")
    print("what serves on NVIDIA GPUs, by compute capability, in 16 bits:")
    for line in cuda.served():
        print(f"  cuda      {line}")
    least = device.name_of(triton.MIN_CAPABILITY)
    print(f"  triton    {least} and later: both passes of any N, D a multiple of 16 to 128; float32 too")
    for kind in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        example = torch.empty(1, 1, 1, 64, device=kind)
        name = torch.cuda.get_device_name() if kind == "cuda" else platform.machine()
        print(f"backends for tensors on {kind} ({name}), D = 64, {example.dtype}:")
        for backend, reasons in explain(example, needs_grad=True).items():
            print(f"  {backend:9s} {'no: ' + '; '.join(reasons) if reasons else 'yes'}")


if __name__ == "__main__":
    main()
