"""Time of one small call on the host, ours over SDPA's: `python -m benchmarks.host_time`.

At N = 16 there is next to nothing to compute: what is left is the price of a call. One thread; the least of many
rounds, in which the implementations take turns; all results are compared with SDPA's first.
"""

import argparse
import platform
import timeit
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from grm_kernels import category_attention, category_attention_packed, cpu

N, D = 16, 64
ROUNDS, CALLS = 20, 300

Calls = dict[str, Callable[[], object]]


def measure(calls: Calls) -> dict[str, float]:
    """Microseconds of a call, by name."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            best[name] = min(best[name], timeit.timeit(call, number=CALLS) / CALLS * 1e6)
    return best


def cases() -> dict[str, Calls]:
    """The calls of each implementation by what is timed, on the same tensors (all tokens A: nothing is blocked)."""
    torch.manual_seed(0)
    qkv = torch.randn(1, N, 3, 1, D)
    tokens = [x.contiguous() for x in qkv.permute(2, 0, 3, 1, 4).unbind(0)]
    leaves = [x.clone().requires_grad_() for x in tokens]
    packed = qkv.clone().requires_grad_()
    categories = torch.full((1, N), 2, dtype=torch.uint8)
    grad = torch.randn_like(tokens[0])

    def step(attend, inputs):
        return lambda: torch.autograd.grad(attend(), inputs, grad)

    forward = {
        "SDPA": lambda: scaled_dot_product_attention(*tokens),
        "ours": lambda: category_attention(*tokens, categories),
        "ours, packed": lambda: category_attention_packed(qkv, categories),
    }
    graph = {
        "SDPA": lambda: scaled_dot_product_attention(*leaves),
        "ours": lambda: category_attention(*leaves, categories),
        "ours, packed": lambda: category_attention_packed(packed, categories),
    }
    backward = {name: step(call, packed if name.endswith("packed") else leaves) for name, call in graph.items()}
    for calls in (forward, graph):
        for call in calls.values():
            torch.testing.assert_close(call(), calls["SDPA"]())
    expected = torch.stack(backward["SDPA"](), 0)  # (3, B, H, N, D)
    torch.testing.assert_close(torch.stack(backward["ours"](), 0), expected)
    torch.testing.assert_close(backward["ours, packed"]()[0].permute(2, 0, 3, 1, 4), expected)
    return {"forward": forward, "forward with graph": graph, "forward + backward": backward}


def main() -> None:
    """Prints a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {cpu.instruction_set()}; B = H = 1, N = {N}, D = {D}")
    print(f"{'microseconds a call':24s}{'SDPA':>8s}{'ours':>8s}{'ours, packed':>15s}{'ours / SDPA':>14s}")
    for what, calls in cases().items():
        times = measure(calls)
        ratio = times["ours"] / times["SDPA"]
        print(f"{what:24s}{times['SDPA']:8.1f}{times['ours']:8.1f}{times['ours, packed']:15.1f}{ratio:14.2f}")


if __name__ == "__main__":
    main()
