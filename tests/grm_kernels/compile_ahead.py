"""Compiles the Triton kernels for GPUs that are not here, and reads what came out. A program: see test_triton_compile.

The operators are called with tensors that have no memory, as they would be called on the GPU; Triton compiles what they
launch and launches nothing. Needs an environment without TRITON_INTERPRET.
"""

import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from grm_kernels import device
from grm_kernels.triton import backward, centre, division, forward, normalization

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
# Matrix instructions of a warp, of four warps (with their sizes), and of the tensor memory of 10.0 (without).
_WARP_MMA = re.compile(r"\bHMMA\.(16)(8)(\d+)\.")
_GROUP_MMA = re.compile(r"\bHGMMA\.(\d+)x(\d+)x(\d+)\.")
# In Triton's intermediate code: products on 10.0 with their sizes, and products that no matrix instruction serves.
_SCALAR_PRODUCT = re.compile(r"tt\.dot [^\n]*-> tensor<[^>\n]*#blocked")
_TENSOR_PRODUCT = re.compile(r"tc_gen5_mma .*?memdesc<(\d+)x(\d+)xb?f(\d+),.*?memdesc<\d+x(\d+)xb?f\d+,")
_TENSOR_MMA = re.compile(r"\bUTC\w*MMA\b")
_SPILL = re.compile(r"\b(STL|LDL)\b")


class _Driver:
    """A GPU of one compute capability, as far as Triton looks at it before it launches."""

    def __init__(self, capability: tuple[int, int]):
        self.number = 10 * capability[0] + capability[1]

    def get_current_device(self):
        return self.number

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.number, 32)


def compiled_kernels(call) -> list:
    """The kernels that `call` would launch."""
    kernels = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernels.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    return kernels


def inspect(kernel) -> dict:
    """Registers, stack, shared memory, spills and matrix instructions of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [_TOOLS / "cuobjdump", "--dump-resource-usage", file], capture_output=True, check=True, text=True
        ).stdout
        code = subprocess.run([_TOOLS / "nvdisasm", file], capture_output=True, check=True, text=True).stdout
    return {
        "kernel": kernel.metadata.name,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "local": int(re.search(r"LOCAL:(\d+)", usage)[1]),
        "spills": len(_SPILL.findall(code)),
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "tensor_columns": kernel.metadata.tmem_size or 0,
        "matrix": dict(Counter(re.findall(r"\b(HMMA|HGMMA|UTC\w*MMA)\b", code))),
        "multiplications": multiplications(kernel, code),
        "scalar_products": len(_SCALAR_PRODUCT.findall(kernel.asm["ttgir"])),
    }


def multiplications(kernel, code: str) -> int:
    """By the matrix instructions in the machine code, every one of them run once."""
    warps = kernel.metadata.num_warps
    by_warp = sum(math.prod(map(int, sizes)) for sizes in _WARP_MMA.findall(code)) * warps
    by_group = sum(math.prod(map(int, sizes)) for sizes in _GROUP_MMA.findall(code)) * (warps // 4)
    # Those of 10.0 do not name their size, but take 32 bytes of the inner dimension: as many as the products need?
    products = [(int(m), int(k), int(n), bits) for m, k, bits, n in _TENSOR_PRODUCT.findall(kernel.asm["ttgir"])]
    needed = sum(k * int(bits) // 8 // 32 for _, k, _, bits in products)
    complete = len(_TENSOR_MMA.findall(code)) == needed
    return by_warp + by_group + (sum(m * k * n for m, k, n, _ in products) if complete else 0)


def compile_case(capability, pass_, d, n, dtype, soft=False, policy=True, tf32=False, b=2) -> list[dict]:
    """What the operator of a pass launches on a GPU of `capability` for this problem."""
    triton.runtime.driver.set_active(_Driver(capability))
    device.capability = lambda _: capability
    device.current = lambda _: contextlib.nullcontext()
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    h = 12
    if pass_ == "frame":
        return [inspect(kernel) for kernel in compiled_kernels(lambda: around_attention(dtype))]
    q, k, v = torch.empty(b, n, 3, h, d, dtype=dtype, device="meta").permute(2, 0, 3, 1, 4).unbind(0)
    categories = None if soft else torch.empty(b, n, dtype=torch.uint8, device="meta")
    soft_policy = torch.empty(b, n, 3, device="meta") if soft else None
    if pass_ == "forward":
        kernels = compiled_kernels(lambda: forward.forward(q, k, v, categories, soft_policy, 0.125))
    else:
        out = torch.empty(b, n, h, d, dtype=dtype, device="meta").transpose(1, 2)
        lse = torch.empty(b, h, n, device="meta")
        kernels = compiled_kernels(
            lambda: backward.backward(
                (out, out, out), out, lse, q, k, v, out, lse, categories, soft_policy, 0.125, policy
            )
        )
    return [inspect(kernel) for kernel in kernels]


def around_attention(dtype: torch.dtype) -> None:
    """What a layer of GRM-B256 launches besides attention, where ranks decide, and its head."""

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    x, qkv = empty(2, 320, 768), empty(2, 320, 3 * 768 + 384)
    weights = (empty(384, 768), empty(384), empty(192, 384), empty(192), empty(2, 192), empty(2))
    columns, of_rank = (empty(count, dtype=torch.uint8) for count in (2, 256))
    division.divide(qkv[:, 64:, -384:], x[:, :64], *weights, columns, of_rank, False, 0.5)
    normalization.add_layer_norm(x, x, empty(768), empty(768), 1e-6)
    features = empty(2, 96, 16, 16).contiguous(memory_format=torch.channels_last)
    window = empty(16, 16, dtype=torch.float32)
    centre.find_centre(centre.bias_relu(features, empty(96)), empty(96), empty(6, 32), empty(6), window, 1e-4)


if __name__ == "__main__":
    for case in json.load(sys.stdin):
        case["dtype"] = getattr(torch, case["dtype"])
        case["capability"] = tuple(case["capability"])
        print(json.dumps(compile_case(**case)), flush=True)
