"""What every test shares: the backends that can run here, and uninitialised memory that is not forgiving."""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # A process of several: each has a core, and so have the processes that it starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Has to be set before the Triton kernels are imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# As the command line sets it: what OpenCV cannot read is told by us.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

# What torch asks for its own products on a GPU where algorithms have to be deterministic; see `poison`.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# What the compiled kernels' outputs are filled with before they run; `poison` does the same for all other memory.
os.environ["GRM_KERNELS_POISON"] = "1"

from grm_kernels import cpu


@dataclass(frozen=True)
class Backend:
    """A backend as the tests run it."""

    name: str
    device: str
    dtypes: tuple[torch.dtype, ...]
    instruction_set: str | None = None

    def __str__(self) -> str:
        return f"{self.name}-{self.instruction_set}" if self.instruction_set else self.name


def version(package: str) -> tuple[int, int]:
    """Major and minor version of an installed package."""
    major, minor = importlib.metadata.version(package).split(".")[:2]
    return int(major), int(minor)


def why_no_triton() -> str | None:
    """What keeps Triton's kernels from running here."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.is_available():
        return None
    if os.environ["TRITON_INTERPRET"] != "1":
        return "Triton's interpreter is switched off"
    if version("triton") < (3, 7) and version("numpy") >= (2, 4):
        return "the interpreter of Triton before 3.7 fails with numpy 2.4 or later"
    return None


WHY_NO_TRITON = why_no_triton()
HALF_AND_FLOAT = (torch.float32, torch.bfloat16, torch.float16)
# The interpreter multiplies bfloat16 matrices wrongly.
ON_GPU = Backend("triton", "cuda", HALF_AND_FLOAT)
TRITON = ON_GPU if torch.cuda.is_available() else Backend("triton", "cpu", (torch.float32, torch.float16))
BACKENDS = [*(Backend("cpu", "cpu", HALF_AND_FLOAT, name) for name in cpu.instruction_sets()), TRITON]


def marks_of(backend: Backend) -> list[pytest.MarkDecorator]:
    """What a test of a backend is marked with: it needs a GPU, or cannot run here."""
    marks = [pytest.mark.gpu] if backend.device == "cuda" else []
    if backend is TRITON and WHY_NO_TRITON:
        marks.append(pytest.mark.skip(reason=WHY_NO_TRITON))
    return marks


@pytest.fixture(params=[pytest.param(b, marks=marks_of(b)) for b in BACKENDS], ids=str)
def backend(request):
    """Every backend that can run on this machine, the CPU once for every instruction set that it has."""
    if request.param.instruction_set is None:
        yield request.param
        return
    before = cpu.instruction_set()
    cpu.set_instruction_set(request.param.instruction_set)
    yield request.param
    cpu.set_instruction_set(before)


@pytest.fixture(autouse=True)
def poison():
    """Fills all uninitialised memory that torch hands out with NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
