"""What the tests of the tracker share."""

import signal

import pytest


@pytest.fixture(autouse=True)
def signal_handlers():
    """Puts back those that the command line sets for its process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
