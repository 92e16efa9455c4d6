"""One process of a GPU's record: ``python -m benchmarks.gpu.child FUNCTION ARGUMENTS DESCRIPTOR``.

Imports what it needs, waits for a line on its standard input, runs one function and writes its rows, as JSON lines, to
a file descriptor. Before an item is tried it is announced, so that whoever reads knows what a process died of.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator

from benchmarks.gpu.device import Gpu, StandIn
from benchmarks.record import GPU_SOURCES, source_hash


def describe(device: Gpu) -> Iterator[dict]:
    """The machine. Asks nothing of the kernels, which may not be built yet."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    yield {"table": "machine", **device.describe(), "triton": triton, "sources": source_hash(GPU_SOURCES)}


def rates(device: Gpu) -> Iterator[dict]:
    """What the machine reaches in this run: the scale of the floors."""
    for rate in device.rates():
        yield {"table": "rates", **rate}


#: Functions that import nothing of the kernels.
_WITHOUT_KERNELS = {"describe": describe, "rates": rates}


def _function(name: str) -> Callable[..., Iterator[dict]]:
    if name in _WITHOUT_KERNELS:
        return _WITHOUT_KERNELS[name]
    from benchmarks.gpu import measure

    return measure.FUNCTIONS[name]


def main() -> None:
    """Runs one function."""
    name, arguments, descriptor = sys.argv[1:]
    options = json.loads(arguments)
    kind = StandIn if options.pop("dry") else Gpu
    function = _function(name)
    if not options.pop("at_once", False) and not sys.stdin.readline():
        return  # whoever was to say so is gone
    device = kind()
    if name not in _WITHOUT_KERNELS:
        device.prepare()
    with os.fdopen(int(descriptor), "w") as rows:
        for row in function(device, **options):
            rows.write(json.dumps(row) + "\n")
            rows.flush()


if __name__ == "__main__":
    main()
