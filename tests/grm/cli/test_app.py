"""What the command line sets up for its process."""

import os

import pytest

from grm import __version__


def test_version(grm):
    assert grm("--version") == (0, f"grm {__version__}\n", "")


@pytest.mark.parametrize(("before", "after"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(grm, monkeypatch, before, after):
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert grm("--version")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == after
