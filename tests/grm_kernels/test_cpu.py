"""What only the CPU kernels have: any number of channels, narrow blocks, parts of a head, matrix units in C++."""

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grm_kernels import cpu, extension, ops
from tests.grm_kernels.problems import MIXED, NO_S, ONLY_A, assert_agrees, make_problem, solve

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason=str(extension.unavailable))


@pytest.fixture(params=cpu.instruction_sets())
def instruction_set(request):
    before = cpu.instruction_set()
    cpu.set_instruction_set(request.param)
    yield request.param
    cpu.set_instruction_set(before)


@pytest.mark.parametrize("channels", [1, 3, 12, 36, 80, 127, 255, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_number_of_channels(instruction_set, dtype, channels):
    assert_agrees(make_problem(1, 2, 70, channels, dtype), "cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_channels_of_a_row_are_read(instruction_set, dtype):
    """Rows of 13 channels between others that are NaN: the padding that the kernels want is theirs."""
    dense = make_problem(2, 2, 45, 13, dtype)
    wide = torch.full((2, 2, 45, 40), float("nan"), dtype=dtype)

    def spread(x):
        view = wide.clone()[..., 5:18]
        view.copy_(x)
        return view

    names = ("q", "k", "v", "grad_out")
    expected = solve(dense, "cpu")
    for name, result in solve(replace(dense, **{n: spread(getattr(dense, n)) for n in names}), "cpu").items():
        assert torch.equal(result, expected[name]), name


# At, below and above the lanes of one register and of a block, for registers of 4, 8 and 16.
@pytest.mark.parametrize("tokens", [3, 4, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65])
@pytest.mark.parametrize("shares", [MIXED, NO_S, ONLY_A], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_blocks(instruction_set, dtype, shares, tokens):
    assert_agrees(make_problem(2, 3, tokens, 24, dtype, shares=shares), "cpu")


@pytest.mark.parametrize("soft", [False, True], ids=["categories", "soft"])
@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_of_a_head(instruction_set, dtype, heads, soft):
    """With fewer than eight heads the backward pass adds up parts of each."""
    assert_agrees(make_problem(1, heads, 260, 20, dtype, soft=soft), "cpu")


def test_parts_of_many_long_heads():
    """Two parts of each; all tokens are A, so that torch's own attention has the answer."""
    problem = make_problem(1, 9, 1030, 8, shares=ONLY_A, policy=False)
    leaves = [x.double().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    out = torch.nn.functional.scaled_dot_product_attention(*leaves)
    expected = torch.autograd.grad(out, leaves, problem.grad_out.double())
    result = solve(replace(problem, grad_lse=torch.zeros_like(problem.grad_lse)), "cpu")
    for name, value in zip("qkv", expected, strict=True):
        bound = 64 * torch.finfo(torch.float32).eps * float(value.abs().max())
        torch.testing.assert_close(result[f"grad_{name}"].double(), value, rtol=0, atol=bound)


def test_the_instruction_set_changes_while_calls_run():
    """A call is served by one set from its beginning to its end, whichever it is: never by a mixture."""
    problem = make_problem(1, 2, 70, 24, policy=False)
    sets = [name for name in cpu.instruction_sets() if name != "amx_emulated"]  # in float32 as the portable one
    before = cpu.instruction_set()
    try:
        expected = []
        for name in sets:
            cpu.set_instruction_set(name)
            expected.append(solve(problem, "cpu"))
        done = threading.Event()

        def change():
            while not done.is_set():
                for name in sets:
                    cpu.set_instruction_set(name)

        changing = threading.Thread(target=change)
        changing.start()
        try:
            for _ in range(200):
                result = ops.forward("cpu")(problem.q, problem.k, problem.v, problem.categories, None, 24**-0.5)
                assert any(torch.equal(result[0], e["out"]) and torch.equal(result[1], e["lse"]) for e in expected)
                # The passes of one call may be of two sets: the last bits are of either then.
                for name, value in solve(problem, "cpu").items():
                    torch.testing.assert_close(value, expected[0][name], rtol=1e-4, atol=1e-5)
        finally:
            done.set()
            changing.join()
    finally:
        cpu.set_instruction_set(before)


def test_emulation_is_never_the_first_choice():
    assert cpu.instruction_sets()[-1] == "amx_emulated"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sanitizers as GCC has them on Linux")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
@pytest.mark.parametrize("name", ["amx_emulated", "portable"])
def test_under_the_sanitizers(tmp_path, name, sanitizers):
    """The kernels on tensors and workspaces that end where they should, in threads."""
    flags = {"amx_emulated": ["-DGRM_EMULATE_TILES"], "portable": []}[name]
    program = tmp_path / "sanitized"
    subprocess.run(
        [
            shutil.which("c++") or "g++",
            *("-std=c++17", "-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-pthread"),
            *("-fno-strict-aliasing", "-Wno-psabi", *flags, f"-DGRM_INSTRUCTION_SET={name}"),
            *("csrc/cpu/kernels.cpp", "tests/grm_kernels/sanitized_cpu.cpp"),
            *("-include", "csrc/cpu/kernels.h", f"-DKERNELS=kernels_{name}", "-o", str(program)),
        ],
        cwd=ROOT,
        check=True,
    )
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "problems served" in result.stdout
