"""What the tests of files of weights share."""

import sys
import types

import pytest


@pytest.fixture
def foreign_module():
    """A module that exists while a checkpoint is written, and is gone when it is read."""
    module = types.ModuleType("foreign_trainer")

    class Settings:
        pass

    class Meter(dict):
        pass

    for cls in (Settings, Meter):
        cls.__module__, cls.__qualname__ = "foreign_trainer", cls.__name__
        setattr(module, cls.__name__, cls)
    sys.modules["foreign_trainer"] = module
    yield module
    sys.modules.pop("foreign_trainer", None)
