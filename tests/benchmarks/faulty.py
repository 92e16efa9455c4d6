"""Implementations of attention with a fault each, to be measured among the others.

``python -m benchmarks.gpu_record --dry --with tests.benchmarks.faulty:RAISES``
"""

import os
import signal
import time

from torch import Tensor

from benchmarks.tables import FORWARD
from benchmarks.workload import Implementation, Inputs, ours


def _raises(x: Inputs) -> Tensor:
    raise LookupError("planted")


def _hangs(x: Inputs) -> Tensor:
    time.sleep(3600)
    raise AssertionError


def _kills(x: Inputs) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


RAISES = Implementation("raises", _raises, (FORWARD,))
HANGS = Implementation("hangs", _hangs, (FORWARD,))
KILLS = Implementation("kills", _kills, (FORWARD,))
WRONG = Implementation("wrong", lambda x: ours(x, backend="reference") * 1.1, (FORWARD,))
