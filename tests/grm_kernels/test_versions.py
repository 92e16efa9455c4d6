"""The bindings compile against every torch that is promised.

Always by a stand-in for what some of their headers refuse; against the headers themselves where they are, which
`make torch-headers` fetches. `make test-torch VERSION=...` builds and tests with one of them altogether.
"""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from tests.grm_kernels import emulated

ROOT = emulated.ROOT
HEADERS = Path(os.environ.get("GRM_TORCH_HEADERS", ROOT / "build/torch-headers"))
VERSIONS = re.search(r"^TORCH_VERSIONS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
BINDINGS = ("csrc/binding.cpp", "csrc/cpu/division.cpp", "csrc/cuda/binding.cpp")
MACROS = ("-DUSE_CUDA", '-DGRM_BUILT_WITH_TORCH=""', "-DGRM_CPU_INSTRUCTION_SETS=GRM_KERNELS(portable)")

pytestmark = emulated.needs_compiler

# torch 2.11 and 2.12 begin every header of pybind11 like this.
GUARDED = """
#ifdef TORCH_TARGET_VERSION
#error "This file should not be included when either TORCH_STABLE_ONLY or TORCH_TARGET_VERSION is defined."
#endif
"""


def compile_binding(binding: str, stage: str, includes: list[Path], *options: str) -> subprocess.CompletedProcess:
    """Runs the compiler up to a stage: "-E" or "-fsyntax-only"."""
    folders = [f"-I{path}" for path in (*includes, sysconfig.get_paths()["include"])]
    command = [emulated.COMPILER, "-std=c++17", "-Wno-psabi", stage, *MACROS, *options, *folders, ROOT / binding]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("binding", BINDINGS)
def test_headers_that_refuse_the_stable_abi_come_before_it(binding, tmp_path):
    (tmp_path / "pybind11").mkdir()
    for name in ("pybind11.h", "stl.h"):
        (tmp_path / "pybind11" / name).write_text(GUARDED)
    includes = [tmp_path, *include_paths()]
    result = compile_binding(binding, "-E", includes)
    assert result.returncode == 0, result.stderr
    refused = compile_binding(binding, "-E", includes, "-DTORCH_TARGET_VERSION=1")
    assert ("should not be included" in refused.stderr) == (binding == "csrc/binding.cpp")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("binding", BINDINGS)
def test_compiles_against(version, binding):
    include = HEADERS / version / "torch/include"
    if not include.is_dir():
        pytest.skip(f"no headers of torch {version} in {HEADERS}: `make torch-headers` fetches them")
    result = compile_binding(binding, "-fsyntax-only", [include, include / "torch/csrc/api/include"])
    assert result.returncode == 0, result.stderr


def test_the_oldest_is_the_one_that_is_asked_for():
    """By the package's requirements, and by the stable ABI that the bindings are compiled for."""
    major, minor, _ = map(int, VERSIONS[0].split("."))
    asked = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert asked == [f"{major}.{minor}"]
    target = re.search(r"#define TORCH_TARGET_VERSION 0x(\w\w)(\w\w)0{12}\n", (ROOT / "csrc/tensors.h").read_text())
    assert [int(part, 16) for part in target.groups()] == [major, minor]
