"""What to compile; everything else is in pyproject.toml.

Environment:
    CXX: the C++ compiler, GCC 12 or later (it has to know _Float16). Without one the package installs and runs on the
        reference.
    GRM_KERNELS_BUILD=0: compile nothing.
    GRM_KERNELS_CUDA: compute capabilities to compile the CUDA kernels for, as "8.0 9.0a"; 0 for none. By default those
        of CUDA_ARCHITECTURES that nvcc knows, where there is nvcc and torch is a build with CUDA.
    CUDA_HOME: where nvcc is, if not on the PATH.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

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
_AVX512_BF16 = [*_AVX512, "-mavx512bf16"]
# csrc/cpu/kernels.cpp is compiled once for each, the best first. The last is for tests: what matrix units run.
INSTRUCTION_SETS = {"portable": [], "amx_emulated": ["-O1", "-DGRM_EMULATE_TILES"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS = {
        "avx512_amx": [*_AVX512_BF16, "-mamx-tile", "-mamx-bf16"],
        "avx512_bf16": _AVX512_BF16,
        "avx512": _AVX512,
        "avx2": _AVX2,
        **INSTRUCTION_SETS,
    }

# Compute capabilities that csrc/cuda is compiled for.
CUDA_ARCHITECTURES = ("8.0", "9.0a", "10.0", "12.0")
CUDA_FLAGS = ["-std=c++17", "-O3", "--compiler-options=-fPIC,-fvisibility=hidden"]


def compiler() -> str | None:
    """The C++ compiler to use, None where there is none."""
    command = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, command) if path), None)


def knows_float16() -> bool:
    """Whether the compiler in CXX has the type that float16 is converted by: GCC does from 12 on."""
    command = [*shlex.split(os.environ["CXX"]), "-x", "c++", "-fsyntax-only", "-"]
    return subprocess.run(command, input="_Float16 half;", capture_output=True, text=True).returncode == 0


def nvcc() -> Path | None:
    """The CUDA compiler, None where there is none."""
    home = os.environ.get("CUDA_HOME")
    path = shutil.which("nvcc", path=str(Path(home) / "bin") if home else None) or shutil.which("nvcc")
    return Path(path) if path else None


def cuda_architectures(compiler: Path) -> list[str]:
    """Those asked for, by default all that the compiler knows."""
    if asked := os.environ.get("GRM_KERNELS_CUDA", "").replace(",", " ").split():
        if wrong := [name for name in asked if asked != ["0"] and not re.fullmatch(r"\d+\.\d[af]?", name)]:
            sys.exit(
                f"grm-kernels: GRM_KERNELS_CUDA: expected 0 or compute capabilities such as 9.0a, got {wrong[0]!r}"
            )
        return [] if asked == ["0"] else asked
    known = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in CUDA_ARCHITECTURES if f"sm_{name.replace('.', '').rstrip('a')}" in known]


def cuda_toolkit(compiler: Path) -> Path:
    """The folder above bin/, include/ and lib/ of the compiler that really runs."""
    command = [compiler, "--dryrun", "-c", "-x", "cu", os.devnull]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return Path(next((line.partition("TOP=")[2] for line in lines if "TOP=" in line), compiler.resolve().parents[1]))


class BuildKernels(build_ext):
    """Compiles the CPU kernels for every instruction set, and the CUDA kernels, before the binding.

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
        self.add_cuda(ext)
        # What is compiled above is no source of the extension: by their dates alone it might not be linked anew.
        self.force = True
        super().build_extension(ext)

    def add_cuda(self, ext: Extension) -> None:
        """Adds the CUDA backend where nvcc is there and torch is a build with CUDA."""
        import torch

        compiler = nvcc()
        if torch.version.cuda is None or compiler is None:
            return
        architectures = cuda_architectures(compiler)
        if not architectures:
            return
        numbers = [name.replace(".", "") for name in architectures]
        codes = [f"--generate-code=arch=compute_{number},code=sm_{number}" for number in numbers]
        target = Path(self.build_temp) / "kernels_cuda.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler, *CUDA_FLAGS, "--threads=0", *codes, "-c", "csrc/cuda/kernels.cu", "-o", target]
        print(*command, file=sys.stderr)
        if subprocess.run(command).returncode:
            raise CompileError(f"{compiler} failed; GRM_KERNELS_CUDA=0 installs without the CUDA kernels")
        ext.sources = [*ext.sources, "csrc/cuda/binding.cpp"]
        ext.extra_objects += [str(target)]
        ext.define_macros += [("USE_CUDA", None), ("GRM_CUDA_ARCHITECTURES", f'"{" ".join(architectures)}"')]
        toolkit = cuda_toolkit(compiler)
        folders = [toolkit / name for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
        ext.library_dirs += [str(folder) for folder in folders if folder.is_dir()]
        ext.libraries += ["torch_cuda", "cudart_static", "dl", "rt", "pthread"]


def extensions() -> list[Extension]:
    """The compiled module, or nothing where it was not wanted or cannot be built."""
    if os.environ.get("GRM_KERNELS_BUILD") == "0":
        return []
    if compiler() is None:
        print("grm-kernels: no C++ compiler found, installing without compiled kernels", file=sys.stderr)
        return []
    os.environ["CXX"] = os.environ.get("CXX") or compiler()
    if not knows_float16():
        print(
            f"grm-kernels: the C++ compiler {os.environ['CXX']} does not know _Float16 (GCC does from 12 on), "
            "installing without compiled kernels",
            file=sys.stderr,
        )
        return []

    # Imported here: without a compiler torch is not needed to install.
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ModuleNotFoundError:
        sys.exit(
            "grm-kernels: the kernels are compiled against the torch that will load them: pip install torch, then pip "
            "install --no-build-isolation (else pip hides it); GRM_KERNELS_BUILD=0 installs without the kernels"
        )

    return [
        Extension(
            "grm_kernels._C",
            ["csrc/binding.cpp", "csrc/cpu/division.cpp"],
            include_dirs=include_paths(),
            library_dirs=library_paths(),
            libraries=["c10", "torch", "torch_cpu"],
            define_macros=[("GRM_BUILT_WITH_TORCH", f'"{torch.__version__}"')],
            extra_compile_args=COMMON_FLAGS,
            depends=[str(path) for path in sorted([*Path("csrc").rglob("*.h"), *Path("csrc").rglob("*.cu*")])],
            language="c++",
        )
    ]


# Before setup() reads pyproject.toml: older versions take its licence, written as PEP 639 says, for a mistake.
if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(f"grm-kernels: building needs setuptools 77 or later, got {setuptools.__version__}; pip can upgrade it")
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
