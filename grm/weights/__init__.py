"""The weights that come with the package, by name."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple


class ShippedWeights(NamedTuple):
    """A file of weights in this folder."""

    file: str
    #: What they are, in a few words.
    summary: str


#: Every file of weights that the package has. README.md in this folder says how each was made.
WEIGHTS = {
    "nano": ShippedWeights("grm_nano.safetensors", "grm_nano, 500,000 pairs of real and rendered video"),
    "real": ShippedWeights("real_tiny.safetensors", "real_tiny, 135,000 pairs of real and rendered video"),
    "tiny": ShippedWeights("synthetic_tiny.safetensors", "grm_tiny, an hour of rendered video"),
}
#: Those that are taken where none are named.
DEFAULT = "nano"


def find_weights(name: str | Path) -> Path:
    """Where weights lie: of a name in `WEIGHTS` the file in this folder, else the path itself. A file wins."""
    path = Path(name)
    if str(name) in WEIGHTS and not path.is_file():
        return Path(str(files(__package__) / WEIGHTS[str(name)].file))
    return path
