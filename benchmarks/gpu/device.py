"""The GPU that children of the record measure, and what stands in for it in a rehearsal."""

from collections.abc import Callable, Iterator

import torch

from benchmarks import machine

_Call = Callable[[], object]


class Gpu:
    """The first CUDA device. Made in a child only, when its turn has come.

    Raises:
        RuntimeError: there is none.

    """

    name = "cuda"
    #: Bytes of input that calls rotate through, so that none finds its input in the cache (60 MB on an H200).
    rotation_bytes = 256 * 2**20
    #: Sizes of the products and of the copy (in elements) whose rates are taken.
    sizes = ((torch.bfloat16, 8192), (torch.float32, 4096))
    copied = 2**30
    #: Frames and training steps of which the median counts.
    rounds = 15

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("no CUDA device; --dry walks the path without one")

    def prepare(self) -> None:
        """Makes the kernels ready; a GPU needs nothing."""

    def describe(self) -> dict[str, object]:
        """Host, device and versions."""
        p = torch.cuda.get_device_properties(0)
        return {
            **machine.describe_host(),
            "device": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "cuda": torch.version.cuda,
        }

    def synchronize(self) -> None:
        """Waits for the device; raises if a kernel has left it unusable."""
        torch.cuda.synchronize()

    def seconds(self, calls: list[_Call], *, capturable: bool = True) -> float:
        """Median device time of one call.

        The calls, each on its own inputs, are captured in one CUDA graph, which is replayed: no launch gaps. What
        cannot be captured is timed as it runs, gaps included.
        """

        def run() -> None:
            for call in calls:
                call()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
            run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if capturable:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            run = graph.replay
        run()
        once = self._between_events(run, 3)
        return self._between_events(run, max(5, min(50, int(0.1 / once)))) / len(calls)

    def _between_events(self, function: _Call, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3)
        return sorted(times)[len(times) // 2]

    def peak_bytes(self, call: _Call) -> int | None:
        """Most memory that a call holds over what was held before."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def launches(self, call: _Call) -> int:
        """Kernels that a call runs, those of a replayed graph among them; copies and memory sets do not count."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            call()
            torch.cuda.synchronize()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not e.is_user_annotation and not e.name.startswith(("Memcpy", "Memset")) for e in events)

    def compile(self, function: Callable) -> Callable:
        """The function compiled, anew for every shape."""
        torch._dynamo.config.recompile_limit = 64
        return torch.compile(function, dynamic=False)

    def dense(self) -> dict[str, torch.nn.attention.SDPBackend]:
        """Forms of torch's attention without a mask."""
        kinds = torch.nn.attention.SDPBackend
        return {"flash": kinds.FLASH_ATTENTION, "cuDNN": kinds.CUDNN_ATTENTION, "efficient": kinds.EFFICIENT_ATTENTION}

    def tracker_options(self, mode: str) -> dict[str, bool]:
        """Options of the tracker in a mode of `benchmarks.gpu.plan`."""
        return {"compile": mode.startswith("compile"), "cuda_graph": "graph" in mode}

    def rates(self) -> Iterator[dict[str, float]]:
        """What the machine reaches in this run, one after the other: large products, a large copy, exponentials."""
        for dtype, size in self.sizes:
            a, b = (torch.randn(size, size, device=self.name).to(dtype) for _ in range(2))
            yield {str(dtype): 2 * size**3 / self.seconds([lambda a=a, b=b: torch.mm(a, b)])}
        yield {"memory": self._copy_rate()}
        yield {"exponentials": self._exponential_rate()}

    def _copy_rate(self) -> float:
        source = torch.randn(self.copied, device=self.name)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.seconds([lambda: target.copy_(source)])

    def _exponential_rate(self) -> float:
        from benchmarks.gpu.exponentials import REPEATS, exponentials

        x = torch.rand(self.copied // 64, device=self.name)
        return x.numel() * REPEATS / self.seconds([lambda: exponentials(x)])


class StandIn(Gpu):
    """A CPU that is taken for a GPU: the emulation of the CUDA kernels, Triton's interpreter, timers of the CPU."""

    name = "cpu"
    rotation_bytes = 0
    sizes = ((torch.float16, 128), (torch.float32, 128))
    copied = 2**18
    rounds = 2

    def __init__(self) -> None:
        self._library: torch.library.Library | None = None

    def prepare(self) -> None:
        """Lets the emulation serve, which is compiled if need be."""
        self._library = _emulate()  # operators are implemented as long as it lives

    def describe(self) -> dict[str, object]:
        """The host, with the capability that is emulated."""
        return {**machine.describe_host(), "device": "dry run on a CPU", "capability": "9.0"}

    def synchronize(self) -> None:
        """Nothing is under way."""

    def seconds(self, calls: list[_Call], *, capturable: bool = True) -> float:
        """Shortest of two rounds over the calls, for each call."""
        return machine.best_seconds(lambda: [call() for call in calls], 2) / len(calls)

    def peak_bytes(self, call: _Call) -> int | None:
        """Not known."""
        return None

    def launches(self, call: _Call) -> int:
        """Operators that a call asks for, in place of kernels."""
        with torch.profiler.profile() as profile:
            call()
        return sum(event.cpu_parent is None for event in profile.events())

    def compile(self, function: Callable) -> Callable:
        """The function as it is: a compiler takes longer than the rehearsal."""
        return function

    def dense(self) -> dict[str, torch.nn.attention.SDPBackend]:
        """The form that the CPU has for every dtype."""
        return {"math": torch.nn.attention.SDPBackend.MATH}

    def tracker_options(self, mode: str) -> dict[str, bool]:
        """Every mode is eager."""
        return {}


def _emulate() -> torch.library.Library | None:
    """Lets the emulation serve as the backend "cuda" for tensors on the CPU; None where it cannot be compiled."""
    from grm_kernels import cuda, dispatch
    from tests.grm_kernels import emulated

    try:
        emulated.emulation()
    except (OSError, AssertionError):
        return None
    device = emulated.Device()
    library = torch.library.Library("grm_kernels", "IMPL")
    for name in ("forward", "backward", "forward_packed", "backward_packed"):
        library.impl(f"cuda_{name}", getattr(device, name), "CPU")
    dispatch.BACKENDS["cuda"] = lambda q, needs_grad, soft: cuda.shape_reasons(
        q, (9, 0), needs_grad=needs_grad, soft=soft
    )
    return library
