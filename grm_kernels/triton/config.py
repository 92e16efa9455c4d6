"""How the kernels are cut into tiles: one table, and the settings of torch that they follow."""

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """One configuration of a kernel.

    A program owns `block` rows (queries; in the backward pass also keys) and walks over `tile` rows of the other side
    at a time, with `warps` warps and a pipeline of `stages` stages. At least `resident` programs share a
    multiprocessor. `registers` bounds those of a thread: said where ptxas, left alone, takes a few spills for the sake
    of more programs.
    """

    block: int
    tile: int
    warps: int
    stages: int
    resident: int
    registers: int | None = None


#: (pass, kind of products, least compute capability, most D) to tiles; the first row that serves is taken.
#: Blocks of 64 divide 320 and cut 464 to 8 (10% too many); a 128-wide block would compute 1.44 times the pairs of 320.
#: Backward tiles of 32 or 16: with more the scores, dP and two accumulators do not fit the registers without spilling
#: where the policy's gradient is made.
TABLE: tuple[tuple[str, str, tuple[int, int], int, Tiles], ...] = (
    ("forward", "half", (12, 0), 64, Tiles(block=64, tile=64, warps=4, stages=3, resident=2)),
    ("forward", "half", (10, 0), 64, Tiles(block=64, tile=64, warps=4, stages=3, resident=2, registers=255)),
    ("forward", "half", (8, 0), 64, Tiles(block=64, tile=64, warps=4, stages=3, resident=2)),
    ("forward", "half", (8, 0), 128, Tiles(block=64, tile=32, warps=4, stages=2, resident=2)),
    ("forward", "tf32", (12, 0), 64, Tiles(block=64, tile=32, warps=4, stages=2, resident=2)),
    ("forward", "tf32", (8, 0), 64, Tiles(block=64, tile=32, warps=4, stages=2, resident=2, registers=255)),
    ("forward", "tf32", (8, 0), 128, Tiles(block=64, tile=32, warps=8, stages=2, resident=1, registers=255)),
    ("forward", "ieee", (8, 0), 64, Tiles(block=32, tile=32, warps=4, stages=2, resident=2, registers=255)),
    ("forward", "ieee", (8, 0), 128, Tiles(block=16, tile=16, warps=4, stages=2, resident=2, registers=255)),
    ("backward", "half", (12, 0), 64, Tiles(block=64, tile=32, warps=4, stages=2, resident=2)),
    ("backward", "half", (10, 0), 64, Tiles(block=64, tile=32, warps=4, stages=3, resident=2, registers=255)),
    ("backward", "half", (8, 0), 64, Tiles(block=64, tile=32, warps=4, stages=3, resident=2)),
    ("backward", "half", (12, 0), 128, Tiles(block=32, tile=16, warps=4, stages=2, resident=2, registers=255)),
    ("backward", "half", (10, 0), 128, Tiles(block=64, tile=32, warps=8, stages=2, resident=1, registers=255)),
    ("backward", "half", (9, 0), 128, Tiles(block=64, tile=32, warps=8, stages=2, resident=1)),
    ("backward", "half", (8, 0), 128, Tiles(block=32, tile=16, warps=4, stages=2, resident=2)),
    ("backward", "tf32", (8, 0), 64, Tiles(block=32, tile=16, warps=4, stages=2, resident=2, registers=255)),
    ("backward", "tf32", (8, 0), 128, Tiles(block=16, tile=16, warps=4, stages=2, resident=1, registers=255)),
    ("backward", "ieee", (8, 0), 64, Tiles(block=32, tile=16, warps=8, stages=1, resident=2)),
    ("backward", "ieee", (8, 0), 128, Tiles(block=16, tile=16, warps=4, stages=1, resident=2, registers=200)),
)


@functools.cache
def configuration(pass_: str, kind: str, capability: tuple[int, int], d: int) -> Tiles:
    """The row of `TABLE` that serves.

    Args:
        pass_: "forward" or "backward".
        kind: of the products, as `kind_of` says: "half", "tf32" or "ieee".
        capability: compute capability, (8, 0) or later.
        d: channels of a head, at most 128.

    Raises:
        LookupError: there is none.

    """
    for row_pass, row_kind, min_capability, max_d, tiles in TABLE:
        if (row_pass, row_kind) == (pass_, kind) and capability >= min_capability and d <= max_d:
            return tiles
    raise LookupError(f"no tiles for {pass_}, {kind}, compute capability {capability}, D={d}")


def kind_of(dtype: torch.dtype) -> str:
    """How products of `dtype` are computed: "half" in 16 bits, otherwise "tf32" if torch's own may be, or "ieee"."""
    if dtype.itemsize == 2:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
