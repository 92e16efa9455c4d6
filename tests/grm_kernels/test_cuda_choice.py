"""Which calls the CUDA kernels serve, on which GPUs, and when they are chosen. Needs no GPU."""

import re

import pytest
import torch

from grm_kernels import cuda, dispatch, explain
from grm_kernels import device as device_facts
from tests.grm_kernels import emulated


@emulated.needs_compiler
def test_the_table_of_sizes_is_that_of_the_kernels():
    """The most tokens by shared memory, worked out from the layouts of csrc/cuda."""
    shared_bytes = emulated.emulation().shared_bytes
    for kib, row in cuda.MAX_TOKENS.items():
        for (pass_, d), most in row.items():
            limit = 320 if pass_ == "backward" else 1024
            fitting = [n for n in range(1, limit + 1) if shared_bytes(pass_ == "backward", n, d) <= 1024 * kib]
            assert most == (max(fitting) if fitting else 0), (kib, pass_, d)
    assert set(cuda.SHARED_KIB.values()) == set(cuda.MAX_TOKENS)


@pytest.mark.parametrize(
    ("shape", "dtype", "capability", "options", "reason"),
    [
        ((1, 1, 320, 48), torch.bfloat16, (9, 0), {}, "needs D of 32 or 64, got 48"),
        ((1, 1, 320, 64), torch.float32, (9, 0), {}, "needs bfloat16 or float16, got torch.float32"),
        ((1, 1, 320, 64), torch.bfloat16, (7, 5), {}, "needs one of the compute capabilities 8.0, .*, got 7.5"),
        ((1, 1, 320, 64), torch.bfloat16, (9, 0), {"soft": True}, "needs categories, got a soft policy"),
        (
            (1, 1, 464, 64),
            torch.bfloat16,
            (9, 0),
            {},
            "the backward pass holds at most N=320 tokens of D=64 on 9.0, got 464",
        ),
        (
            (1, 1, 465, 64),
            torch.bfloat16,
            (12, 0),
            {"needs_grad": False},
            "the forward pass holds at most N=384 .* on 12.0",
        ),
        ((1, 1, 320, 64), torch.bfloat16, (12, 0), {}, "the backward pass holds at most N=0 tokens of D=64 on 12.0"),
    ],
)
def test_what_is_declined(shape, dtype, capability, options, reason):
    q = torch.empty(shape, dtype=dtype, device="meta")
    (only,) = cuda.shape_reasons(q, capability, **{"needs_grad": True, **options})
    assert re.match(reason, only)


def test_what_is_served():
    for capability in ((8, 0), (9, 0), (10, 0)):
        q = torch.empty(1, 12, 320, 64, dtype=torch.bfloat16, device="meta")
        assert cuda.shape_reasons(q, capability, needs_grad=True) == []
        longer = torch.empty(1, 12, 464, 64, dtype=torch.bfloat16, device="meta")
        assert cuda.shape_reasons(longer, capability, needs_grad=False) == []


def test_what_is_served_is_said():
    """Of the GPUs with the least shared memory too."""
    (line,) = (line for line in cuda.served() if "12.0" in line)
    assert line == (
        "8.6, 8.9, 12.0, 12.1 (99 KiB a block): "
        "forward of D=64 to N=384, forward of D=32 to N=736, backward of D=32 to N=320"
    )


def test_a_device_is_asked_once(monkeypatch):
    calls = []
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(device_facts, "_CAPABILITIES", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: calls.append(device) or (9, 0))
    assert [device_facts.capability(gpu) for _ in range(3)] == [(9, 0)] * 3
    assert calls == [gpu]
    assert device_facts.is_nvidia_gpu(gpu)


def test_triton_is_chosen_where_nothing_was_measured(monkeypatch):
    q = torch.empty(1, 1, 320, 64, dtype=torch.bfloat16, device="meta")
    monkeypatch.setattr(cuda, "capability", lambda device: (9, 0))
    on_gpu = type("OnGpu", (), {"device": torch.device("cuda"), "shape": q.shape})
    assert dispatch._preference(on_gpu, needs_grad=True)[:2] == ("triton", "cuda")
    monkeypatch.setattr(cuda, "FASTER", frozenset({((9, 0), "forward", 64, 320)}))
    assert dispatch._preference(on_gpu, needs_grad=True)[:2] == ("triton", "cuda")
    assert dispatch._preference(on_gpu, needs_grad=False)[:2] == ("cuda", "triton")


def test_architectures():
    assert cuda._runs_on("8.0", (8, 6)) and cuda._runs_on("9.0a", (9, 0)) and cuda._runs_on("12.0", (12, 1))
    assert not cuda._runs_on("9.0a", (9, 1)) and not cuda._runs_on("8.6", (8, 0)) and not cuda._runs_on("8.0", (9, 0))


def test_without_a_gpu_it_says_so():
    reasons = explain(torch.empty(1, 1, 320, 64))["cuda"]
    assert "needs tensors on an NVIDIA GPU, got cpu" in reasons
