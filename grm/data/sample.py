"""One training pair."""

from typing import NamedTuple

from torch import Tensor


class Sample(NamedTuple):
    """A template and a search region of one target, augmented, on the CPU; collates with torch's default_collate."""

    #: (3, t, t) uint8, RGB crop, not normalised.
    template: Tensor
    #: (3, s, s) uint8, likewise.
    search: Tensor
    #: (4,) float32: the target in the search crop, centre x, centre y, width, height in its sides; not clipped.
    box: Tensor
    #: (4,) float32: the target in the template crop, likewise.
    template_box: Tensor
    #: Where it came from: data set, sequence and frames.
    provenance: str
