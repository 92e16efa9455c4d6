"""The files that pip checks by their hashes are of the versions that constraints.txt names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {"pip", "setuptools"}


def pins(path):
    """Version and hashes by name; platforms are left out."""
    text = (ROOT / path).read_text().replace("\\\n", "")
    found = re.findall(r"^([\w.-]+)==(\S+)(?: *;[^\n#]*?)?((?: +--hash=sha256:[0-9a-f]{64}\b)*) *$", text, re.M)
    return {re.sub("[-_.]+", "-", name).lower(): (version, hashes.split()) for name, version, hashes in found}


@pytest.mark.parametrize("path", [".ci/packages.txt", ".ci/tools.txt"])
def test_every_file_has_a_hash(path):
    text = (ROOT / path).read_text()
    assert len(pins(path)) == text.count("==") - text.count(" == ") and all(hashes for _, hashes in pins(path).values())


def test_versions_are_those_of_the_constraints():
    """All but torch's, of whose version there are several builds: `make hashes` brings them together."""
    wanted = {name: version for name, (version, _) in pins("constraints.txt").items() if name != "torch"}
    packages, tools = (
        {name: version for name, (version, _) in pins(f".ci/{x}.txt").items()} for x in ("packages", "tools")
    )
    assert packages == {name: version for name, version in wanted.items() if name not in TOOLS}
    assert tools == {name: version for name, version in wanted.items() if name in TOOLS}
