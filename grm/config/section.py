"""What every section of a configuration has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

# No number of a configuration is larger; what takes memory or time by it has a bound of its own.
_LARGEST = 1e9


class Section(BaseModel):
    """A part of a configuration: unknown keys, NaN, infinite and absurd numbers are refused; nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int | float) and abs(number) > _LARGEST for number in numbers):
            raise ValueError(f"expected numbers up to {_LARGEST:g}, got {value}")
        return value


class SectionError(ValueError):
    """Values of a section that do not go together.

    Args:
        keys: of the section, those that the fault is about.
        message: what was expected and what came.

    """

    def __init__(self, *keys: str, message: str):
        super().__init__(message)
        self.keys = keys
