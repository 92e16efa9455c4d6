"""A training pair, as the trainer gets it."""

from typing import NamedTuple

from torch import Tensor


class Sample(NamedTuple):
    """One training pair on the CPU, augmented and not normalised. Collates with torch's default."""

    #: (3, t, t) uint8, RGB.
    template: Tensor
    #: (3, s, s) uint8, RGB.
    search: Tensor
    #: (4,) float32: centre x, centre y, width, height in sides of the search crop; may reach over its edges.
    box: Tensor
    #: (4,) float32: the target in the template crop, likewise.
    template_box: Tensor
    #: (2,) float32: what the pixels of template and search are still to be multiplied by, limited to 255. What comes of
    #: it has fractions, which the bytes have not.
    brightness: Tensor
    #: Where it came from: data set, sequence and frames.
    provenance: str
