"""What the tests of the tracker share."""

import signal
import sys

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
    """Those of a process that was started in a terminal, before and after: what starts tests may ignore signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in numbers[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def grm(monkeypatch, capfd):
    """Runs a command line: status, output, errors."""
    from grm import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["grm", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capfd.readouterr()
        return status, out, err

    monkeypatch.setenv("COLUMNS", "200")
    return run
