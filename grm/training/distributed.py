"""The processes that train together, as torchrun starts them; without it there is one."""

import gc
import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError

# A process waits so long for the others: they may have longer sequences to track in an evaluation.
_TIMEOUT = timedelta(hours=1)


class Processes(NamedTuple):
    """Which of how many this process is, and what it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes logs and checkpoints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a float tensor over all processes, in place; waits for all of them."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is set on any process; waits for all of them."""
        return flag if self.count == 1 else self._mean_of(flag) > 0

    def agree(self, number: int) -> bool:
        """Whether a number is the same on all processes as far as this one can tell; waits for all of them."""
        return self.count == 1 or self._mean_of(number) == number

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values, in place; waits for all of them."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def _mean_of(self, number: float) -> float:
        return self.mean(torch.tensor(number, dtype=torch.float32, device=self.device)).item()


@contextmanager
def join_processes(device: str | None = None) -> Iterator[Processes]:
    """Joins the processes that torchrun started; leaves them when done.

    Args:
        device: "cpu", "cuda", or one GPU as in "cuda:1"; None: GPUs where there are any. With "cuda" each process
            takes the one of its local rank.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, or one GPU is named for several processes.

    """
    named = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = named.type
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if kind == "cuda":
        if named.index is not None and count > 1:
            raise ConfigError(f"{device}: {count} processes take a GPU each: expected cuda without a number")
        index = int(os.environ.get("LOCAL_RANK", "0")) if named.index is None else named.index
        chosen = torch.device("cuda", index)
        if chosen.index >= torch.cuda.device_count():
            raise ConfigError(
                f"GPU {index}: expected one for each local process (LOCAL_RANK), got {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(chosen)
    else:
        chosen = torch.device(kind)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    # Gloo's threads need Python's lock to let go of a tensor, and abort if the interpreter is ending by then. They end
    # with the group, once nothing refers to it: DistributedDataParallel does, and so do default arguments of functions
    # in this module, unless it is loaded before there is a group.
    importlib.import_module("torch.distributed.nn.functional")
    on_gpu = chosen if kind == "cuda" else None
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT, device_id=on_gpu)
    try:
        yield Processes(dist.get_rank(), count, chosen)
    finally:
        gc.collect()
        dist.destroy_process_group()
