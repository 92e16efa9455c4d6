"""What to compile; everything else is in pyproject.toml.

Environment:
    CXX: the C++ compiler, GCC 12 or later. Without one the package installs and runs on the reference.
    GRM_KERNELS_BUILD=0: compile nothing.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# The oldest torch whose stable ABI the binding is written for: 2.11.
TORCH_TARGET_VERSION = "0x020b000000000000"

COMMON_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",  # inside GCC 12's own AVX-512 headers
]

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
# csrc/cpu/kernels.cpp is compiled once for each, the best first.
INSTRUCTION_SETS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS = {"avx512_bf16": [*_AVX512, "-mavx512bf16"], "avx512": _AVX512, "avx2": _AVX2, "portable": []}


def compiler() -> str | None:
    """The C++ compiler to use, None where there is none."""
    command = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, command) if path), None)


class BuildKernels(build_ext):
    """Compiles the CPU kernels for every instruction set before the binding is compiled and linked.

    A set that the compiler cannot compile (older ones lack the newest, Clang 16 crashes on AVX512-BF16) is left out.
    """

    def build_extension(self, ext: Extension) -> None:
        def compile_for(name: str) -> list[str]:
            try:
                return self.compiler.compile(
                    ["csrc/cpu/kernels.cpp"],
                    output_dir=str(Path(self.build_temp) / name),
                    macros=[("GRM_INSTRUCTION_SET", name)],
                    extra_postargs=COMMON_FLAGS + INSTRUCTION_SETS[name],
                    depends=ext.depends,
                )
            except CompileError as error:
                if name == "portable":
                    raise
                print(f"grm-kernels: leaving out the {name} kernels: {error}", file=sys.stderr)
                return []

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = dict(zip(INSTRUCTION_SETS, pool.map(compile_for, INSTRUCTION_SETS), strict=True))
        compiled = [name for name in INSTRUCTION_SETS if objects[name]]
        ext.extra_objects += [path for name in compiled for path in objects[name]]
        ext.define_macros += [("GRM_CPU_INSTRUCTION_SETS", " ".join(f"GRM_KERNELS({name})" for name in compiled))]
        super().build_extension(ext)


def extensions() -> list[Extension]:
    """The compiled module, or nothing where it was not wanted or cannot be built."""
    if os.environ.get("GRM_KERNELS_BUILD") == "0":
        return []
    if compiler() is None:
        print("grm-kernels: no C++ compiler found, installing without compiled kernels", file=sys.stderr)
        return []
    os.environ["CXX"] = os.environ.get("CXX") or compiler()

    # Imported here: without a compiler torch is not needed to install.
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    return [
        Extension(
            "grm_kernels._C",
            ["csrc/binding.cpp"],
            include_dirs=include_paths(),
            library_dirs=library_paths(),
            libraries=["c10", "torch", "torch_cpu"],
            define_macros=[
                ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
                ("GRM_BUILT_WITH_TORCH", f'"{torch.__version__}"'),
            ],
            extra_compile_args=COMMON_FLAGS,
            depends=[str(path) for path in sorted(Path("csrc").rglob("*.h"))],
            language="c++",
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
