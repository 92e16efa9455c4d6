"""How much is tried: a little, always the same, in a normal run; as much as was promised in a slow one."""

import functools
import resource
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings

# What an example may take, in seconds of this process, and all of them in memory, in KiB as Linux counts.
MOST_TIME = 10
MOST_MEMORY = 1 << 20


class File(bytes):
    """The content of a file, of which a report shows the length only."""

    def __repr__(self):
        return f"File of {len(self)} bytes"


def fuzzed(normal, slow, **strategies):
    """Makes two tests of a check: of few examples that are always the same, and a slow one of many."""

    def decorate(check):
        @functools.wraps(check)
        def timed(**arguments):
            start = time.process_time()
            check(**arguments)
            assert time.process_time() - start < MOST_TIME

        def runner(count):
            chosen = settings(
                max_examples=count, derandomize=True, database=None, deadline=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            examples = chosen(given(**strategies)(timed))

            def test(tmp_path):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                check.folder = tmp_path
                examples()
                assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY

            return test

        module = sys.modules[check.__module__]
        name = check.__name__.removeprefix("check_")
        for test, suffix in ((runner(normal), ""), (pytest.mark.slow(runner(slow)), "_at_length")):
            test.__name__ = test.__qualname__ = f"test_{name}{suffix}"
            test.__doc__ = check.__doc__
            setattr(module, test.__name__, test)
        return check

    return decorate


def damaged(draw, whole):
    """A file with some of its bytes changed, taken out, repeated, or cut off."""
    from hypothesis import strategies as st

    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 30, 500]))
        match draw(st.sampled_from(["change", "take out", "repeat", "large", "cut"])):
            case "change":
                new = draw(st.binary(min_size=min(length, 30), max_size=min(length, 30)))
                data[place : place + len(new)] = new
            case "take out":
                del data[place : place + length]
            case "repeat":
                data[place:place] = data[place : place + length]
            case "large":
                data[place : place + 4] = draw(
                    st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x10"])
                )
            case "cut":
                del data[len(data) - min(len(data), length) :]
    return File(data)
