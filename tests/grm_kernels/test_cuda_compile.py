"""The CUDA sources through nvcc, for GPUs that are not here: registers, spills, the build of the extension."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from grm_kernels import cuda
from tests.grm_kernels import emulated

CSRC = emulated.ROOT / "csrc"
# Those of setup.py, and two that may be asked for.
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0")
REGISTERS = 65536  # of a multiprocessor


def find_toolkit() -> Path | None:
    """Where bin/nvcc is: of the machine, or of the packages that the `test` extra installs."""
    if shutil.which("nvcc"):
        return Path(shutil.which("nvcc")).resolve().parents[1]
    specification = importlib.util.find_spec("nvidia")
    folders = list(specification.submodule_search_locations) if specification else []
    return next((Path(folder, "cu13") for folder in folders if Path(folder, "cu13/bin/nvcc").exists()), None)


TOOLKIT = find_toolkit()
NVCC = shutil.which("nvcc") or str(TOOLKIT and TOOLKIT / "bin/nvcc")
pytestmark = pytest.mark.skipif(TOOLKIT is None, reason="there is no nvcc, neither on the PATH nor installed by pip")

_FUNCTION = re.compile(r"Compiling entry function '(\S+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_KERNEL = re.compile(r"(forward|backward)_kernelINS\d_\d+(BFloat16|Half)ELi(\d+)E(?:Lb([01])E)?")


def resources(architecture: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Registers of a thread, and bytes of stack and spills, of every kernel by its mangled name."""
    code = architecture.replace(".", "")
    command = [NVCC, "-std=c++17", "-O3", f"-arch=sm_{code}", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
    command += [CSRC / "cuda/kernels.cu", "-o", folder / f"{code}.cubin"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {}
    for line in result.stderr.splitlines():
        if match := _FUNCTION.search(line):
            name = match[1]
        elif match := _SPILLS.search(line):
            spilled = sum(map(int, match.groups()))
        elif match := _REGISTERS.search(line):
            found[name] = (int(match[1]), spilled)
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """By architecture, two at a time."""
    folder = tmp_path_factory.mktemp("cubins")
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(resources, name, folder) for name in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_and_spills(compiled, architecture):
    """No spills in what an architecture serves; eight warps of each kernel share a multiprocessor."""
    capability = tuple(int(part.rstrip("a")) for part in architecture.split("."))
    kernels = compiled[architecture].result()
    assert len(kernels) == 13
    for name, (registers, spilled) in kernels.items():
        match = _KERNEL.search(name)
        pass_, d = (match[1], int(match[3])) if match else (None, None)
        served = match is None or cuda.MAX_TOKENS[cuda.SHARED_KIB[capability]][pass_, d] > 0
        assert spilled == 0 or not served, f"{name} spills {spilled} bytes"
        assert 8 * 32 * (-(-registers // 8) * 8) <= REGISTERS, f"{name} takes {registers} registers"


@emulated.needs_compiler
@pytest.mark.parametrize(("capability", "blocks"), [((8, 0), 1), ((9, 0), 2), ((10, 0), 2), ((12, 0), 1)])
def test_blocks_that_share_a_multiprocessor(capability, blocks):
    """The forward pass at N = 320: as many as the launch counts on, by shared memory."""
    module = emulated.emulation()
    kib = cuda.SHARED_KIB[capability]
    device = module.Device(100, 1024 * kib, 1024 * (kib + 1))
    _, threads = module.parts(128, 12, 320, 64, device)
    assert threads == 256 // blocks
    assert blocks * (module.shared_bytes(False, 320, 64) + 1024) <= 1024 * (kib + 1)


def test_conformance_program(tmp_path):
    """Compiles and links; it runs where there is a GPU (benchmarks/gpu_record.py)."""
    libraries = [f"-L{path}" for path in (TOOLKIT / "lib64", TOOLKIT / "lib") if path.is_dir()]
    command = [NVCC, "-std=c++17", "-arch=sm_90a", *libraries, CSRC / "cuda/conformance.cu", "-o", tmp_path / "run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# Runs setup.py as on a machine with a CUDA build of torch, the CPU kernels for the baseline only.
BUILD = """
import platform, sys, torch
torch.version.cuda = "13.0"
platform.machine = lambda: "baseline"
sys.argv = ["setup.py", "--quiet", "build_ext", "--build-lib", sys.argv[1], "--build-temp", sys.argv[1]]
exec(compile(open("setup.py").read(), "setup.py", "exec"))
"""
# What the module takes from libtorch_cuda, which a build without CUDA lacks.
STUB = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void** stream) { *stream = nullptr; return 0; }\n'
# The package in use has a module of its own, so only the schemas are taken from it.
CHECK = """
import importlib.util, sys, torch
def load(name, path):
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
ops = load("ops", sys.argv[1])
module = load("_C", sys.argv[2])
registered = torch._C._dispatch_has_kernel_for_dispatch_key("grm_kernels::cuda_backward", "CUDA")
print(module.cuda_architectures, registered)
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="the extension in use was built this way")
def test_the_extension_builds_with_cuda(tmp_path):
    """setup.py from nvcc to the linked module, with a stand-in for libtorch_cuda."""
    build = tmp_path / "build"
    stub = tmp_path / "libtorch_cuda.so"
    (tmp_path / "stub.cpp").write_text(STUB)
    subprocess.run([emulated.COMPILER, "-shared", "-fPIC", tmp_path / "stub.cpp", "-o", stub], check=True)
    environment = {
        **os.environ,
        "CUDA_HOME": str(TOOLKIT),
        "GRM_KERNELS_CUDA": "9.0a",
        "LIBRARY_PATH": str(tmp_path),
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    command = [sys.executable, "-c", BUILD, build]
    result = subprocess.run(command, cwd=emulated.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    (module,) = build.glob("grm_kernels/_C*.so")
    command = [sys.executable, "-c", CHECK, emulated.ROOT / "grm_kernels/ops.py", module]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == ["9.0a", "True"], result.stdout + result.stderr
