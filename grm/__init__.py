"""GRM: a visual tracker that divides its search tokens (Gao, Zhou, Zhang, CVPR 2023), on top of `grm_kernels`.

    import grm

    tracker = grm.Tracker(grm.load_model())
    tracker.initialize(first_frame, (x, y, width, height))
    box, score, *_ = tracker.track(next_frame)

What is listed here is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grm_kernels import __version__

    from .config import load_config
    from .errors import GrmError
    from .model import load_model
    from .tracking import Tracker

__all__ = ["GrmError", "Tracker", "__version__", "load_config", "load_model"]

_HOMES = {
    "GrmError": ".errors",
    "Tracker": ".tracking",
    "__version__": "grm_kernels",
    "load_config": ".config",
    "load_model": ".model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
