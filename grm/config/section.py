"""What every section of a configuration has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a configuration: unknown keys, NaN and infinite numbers are refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SectionError(ValueError):
    """Values of a section that do not go together.

    Args:
        keys: of the section, those that the fault is about.
        message: what was expected and what came.

    """

    def __init__(self, *keys: str, message: str):
        super().__init__(message)
        self.keys = keys
