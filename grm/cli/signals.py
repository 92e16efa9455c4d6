"""What a signal to stop does: it ends the command as Ctrl-C does, but not in the middle of a frame."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Status of a command that Ctrl-C ended.
INTERRUPTED = 130
#: Ctrl-C, a polite end, and a terminal that was closed.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def stop_as_ctrl_c() -> None:
    """Has every signal to stop raise KeyboardInterrupt. One that is ignored, as under nohup, stays so."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def end_at_signals() -> None:
    """Has a signal to stop end the process without a word: there is nothing left to be kept."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def ignore_stopping() -> None:
    """Ignores signals to stop from now on: what is being closed is closed."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds back signals to stop until the end of the block, which then ends in KeyboardInterrupt."""
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
