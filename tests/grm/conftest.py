"""What the tests of the tracker share."""

import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Models of tests are small: more threads bring nothing, and wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Puts back those that the command line sets for its process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
