"""A whole configuration, and what its sections owe each other."""

from pydantic import model_validator

from .data import DataConfig
from .model import ModelConfig
from .section import Section, SectionError
from .training import TrainingConfig


class Config(Section):
    """A whole configuration, as a YAML file has it."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> "Config":
        weights, division = self.training.loss, self.model.division
        if weights.entropy and division.variant not in ("sa", "tsa"):
            raise SectionError("training.loss.entropy", message=f"variant {division.variant} chooses no A tokens")
        if division.gradient_limit is not None and self.training.precision == "float16":
            raise SectionError(
                "model.division.gradient_limit", message="float16 scales the loss; use bfloat16 or float32"
            )
        for name in ("entropy", "division"):
            if getattr(weights, name) and not set(self.model.division_layers) - set(division.fixed):
                raise SectionError(f"training.loss.{name}", message="no layer of this model predicts a division")
        return self
