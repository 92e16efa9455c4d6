"""What waiting costs on a machine that others use too: ``python -m benchmarks.busy``.

Between two parallel regions OpenMP's threads spin, so that the next one begins at once. Where another process wants the
core, the one that spins is scheduled as if it worked, and the one that works waits for it. Layers of a transformer
(two products, category attention and two more products: five parallel regions) are called for a while under every
waiting policy, alone and beside one busy loop a core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch

from benchmarks import machine, record

#: OMP_WAIT_POLICY of a process; None leaves it unset. OpenMP reads it when torch is imported.
POLICIES = (None, "passive", "active")

LAYERS, BATCH, TOKENS, HEADS, CHANNELS = 6, 1, 320, 4, 64


def frame_seconds(seconds: float, dtype: torch.dtype) -> list[float]:
    """Seconds of every pass through the layers, called for `seconds` seconds."""
    from grm_kernels import category_attention

    torch.manual_seed(0)
    width = HEADS * CHANNELS
    x = torch.randn(BATCH, TOKENS, width).to(dtype)
    shapes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
    weights = [torch.randn(shape).to(dtype) / shape[1] ** 0.5 for shape in shapes]
    categories = torch.randint(0, 3, (BATCH, TOKENS), dtype=torch.uint8)

    def frame(y: torch.Tensor) -> torch.Tensor:
        for _ in range(LAYERS):
            qkv = torch.nn.functional.linear(y, weights[0]).view(BATCH, TOKENS, 3, HEADS, CHANNELS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            y = category_attention(q, k, v, categories).transpose(1, 2).reshape(BATCH, TOKENS, width)
            for weight in weights[1:]:
                y = torch.nn.functional.linear(y, weight)
        return y

    times = []
    with torch.inference_mode():
        frame(x)
        begin = time.perf_counter()
        while (start := time.perf_counter()) - begin < seconds:
            frame(x)
            times.append(time.perf_counter() - start)
    return times


def measure(policy: str | None, busy: int, seconds: float, threads: int, dtype: str) -> dict:
    """Median and slowest pass of a process with this policy beside `busy` processes that do nothing but run."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment["OMP_NUM_THREADS"] = str(threads)
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, "-m", "benchmarks.busy", "--frames", "--seconds", str(seconds), "--dtype", dtype]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    times = json.loads(result.stdout)
    return {
        "policy": policy,
        "busy": busy,
        "threads": threads,
        "frames": len(times),
        "median_s": statistics.median(times),
        "slowest_s": max(times),
    }


def main() -> None:
    """Measures every policy alone and beside busy loops, with one thread and with all; prints and writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each setting (default 3)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    parser.add_argument("--frames", action="store_true", help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.frames:
        print(json.dumps(frame_seconds(options.seconds, getattr(torch, options.dtype))))
        return

    cores = len(os.sched_getaffinity(0))
    busy_record = {
        "kind": "busy",
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "dtype": options.dtype,
        "load_before": list(os.getloadavg()),
    }
    settings = [(policy, busy, cores) for busy in (0, cores) for policy in POLICIES]
    settings += [(None, busy, 1) for busy in (0, cores)]
    busy_record["measurements"] = [
        measure(policy, busy, options.seconds, threads, options.dtype) for policy, busy, threads in settings
    ]
    path = options.output / "busy_cpu.json"
    record.finish(busy_record, path)


if __name__ == "__main__":
    main()
