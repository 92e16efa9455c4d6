"""The CUDA kernels on a CPU: compiles the emulation, and runs the kernels as the operators of the `cuda` backend."""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.cpp_extension import include_paths

from grm_kernels import ops

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "csrc/emulation" / name for name in ("module.cpp", "machine.cpp", "memory.cpp", "fibre.cpp")]
FLAGS = ("-std=c++17", "-march=native", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden")
FLAGS += ("-Wall", "-Wextra", "-Wno-psabi")
OPTIMISED, SANITIZED = ("-O2",), ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

COMPILER = (os.environ.get("CXX") or "g++").split()[0]
needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"the emulation needs a compiler, no {COMPILER}"
)

# Multiprocessors, KiB of shared memory of a block and of a multiprocessor: those of an H200.
H200 = (132, 227, 228)


def build(flags: tuple[str, ...] = OPTIMISED) -> Path:
    """The module compiled with these flags, from build/ if nothing has changed since."""
    folders = (ROOT / "csrc/cuda", ROOT / "csrc/emulation")
    sources = [ROOT / "csrc/problem.h", *(path for folder in folders for path in sorted(folder.glob("*.*")))]
    digest = hashlib.sha256(repr((COMPILER, flags, FLAGS, torch.__version__)).encode())
    for path in sources:
        digest.update(path.read_bytes())
    folder = ROOT / "build" / "emulation" / digest.hexdigest()[:16]
    module = folder / f"emulation{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder.mkdir(parents=True, exist_ok=True)
    # Tests may run in several processes: one compiles, the others wait for it.
    with FileLock(folder / "lock"):
        if not module.exists():
            _compile(module, flags)
    return module


def _compile(module: Path, flags: tuple[str, ...]) -> None:
    folder = module.parent
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        includes = [f"-I{path}" for path in (*include_paths(), sysconfig.get_paths()["include"])]
        objects = [Path(temporary) / f"{source.stem}.o" for source in SOURCES]
        command = [COMPILER, *FLAGS, *flags, "-DGRM_EMULATION", *includes]
        processes = [
            subprocess.Popen([*command, "-c", source, "-o", target], stderr=subprocess.PIPE, text=True)
            for source, target in zip(SOURCES, objects, strict=True)
        ]
        for process in processes:
            _, errors = process.communicate()
            assert process.returncode == 0, errors[-4000:]
        linked = Path(temporary) / module.name
        subprocess.run([COMPILER, *flags, "-shared", *objects, "-o", linked], check=True)
        linked.replace(module)


def load(path: Path):
    """The module at `path`."""
    specification = importlib.util.spec_from_file_location("emulation", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@functools.cache
def emulation():
    """The emulation, compiled if need be."""
    return load(build())


def memory(tensor: Tensor):
    """The tensor as the emulation takes it: where, how many bytes from the first to the last element, strides."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return emulation().Memory(tensor.data_ptr(), span * tensor.element_size(), list(tensor.stride()))


class Hardware:
    """The GPU that is there, with the operators as `Device` has them."""

    where = "cuda"
    forward = staticmethod(ops.forward("cuda"))
    backward = staticmethod(ops.backward("cuda"))


class Device:
    """A GPU that is not there: the operators, and what was seen while they ran."""

    where = "cpu"

    def __init__(self, multiprocessors: int = H200[0], shared: int = H200[1], shared_total: int = H200[2]) -> None:
        module = emulation()
        self.device = module.Device(multiprocessors, 1024 * shared, 1024 * shared_total)
        self.options = module.Options()
        self.less_shared: dict[str, int] = {}  # bytes, by pass: a fault to plant
        self.sites: dict = {}

    def _run(self, pass_: str, q: Tensor, scale: float, tensors: dict[str, Tensor]) -> None:
        b, h, n, d = q.shape
        if q.numel() == 0:  # nothing is launched
            return
        problem = emulation().Problem(b, h, n, d, h // tensors["k"].shape[1], q.dtype == torch.bfloat16, scale)
        memories = {name: memory(tensor) for name, tensor in tensors.items()}
        run = getattr(emulation(), pass_)
        self.sites = run(problem, memories, self.device, self.options, self.less_shared.get(pass_, 0))

    def _forward(self, q, k, v, categories, soft_policy, scale):
        assert soft_policy is None
        out, lse = ops.empty_like_output(q), q.new_empty(q.shape[:3], dtype=torch.float32)
        tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "categories": categories.contiguous()}
        self._run("forward", q, scale, tensors)
        return out, lse

    def _backward(self, grads, grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, scale, policy_grad):
        """Fills `grads`, returns the policy's."""
        assert soft_policy is None
        b, h, n, _ = q.shape
        grads = {f"grad_{name}": grad for name, grad in zip("qkv", grads, strict=True)}
        tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "categories": categories.contiguous(), **grads}
        tensors |= {"grad_out": ops.with_adjacent_channels(grad_out)[0]}
        if grad_lse is not None:
            tensors |= {"grad_lse": grad_lse.contiguous()}
        grad_policy = (torch.empty if q.numel() else torch.zeros)((b, n, 3) if policy_grad else (0,))
        if policy_grad:
            tensors |= {"grad_policy": grad_policy, "partials": torch.empty(b, h, n, 2)}
        self._run("backward", q, scale, tensors)
        return grad_policy

    def forward(self, q, k, v, *arguments):
        """The operator `grm_kernels::cuda_forward`."""
        return self._forward(q, k, v, *arguments)

    def forward_packed(self, qkv, *arguments):
        """The operator `grm_kernels::cuda_forward_packed`."""
        return self._forward(*ops.unpack(qkv), *arguments)

    def backward(self, grad_out, grad_lse, q, *arguments):
        """The operator `grm_kernels::cuda_backward`."""
        grads = [ops.empty_like_output(q) for _ in range(3)]
        return *grads, self._backward(grads, grad_out, grad_lse, q, *arguments)

    def backward_packed(self, grad_out, grad_lse, qkv, *arguments):
        """The operator `grm_kernels::cuda_backward_packed`."""
        grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        grads = ops.unpack(grad_qkv)
        return grad_qkv, self._backward(grads, grad_out, grad_lse, *ops.unpack(qkv), *arguments)
