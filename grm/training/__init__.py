"""Training of GRM: losses, the step, and the loop around it."""

from ..errors import CheckpointError, NonFiniteError
from ..evaluation.runner import mean_overlap
from .distributed import Processes, join_processes
from .held_out import held_out_evaluation
from .log import draw_log, read_log
from .losses import Losses, training_losses
from .step import TrainingStep
from .trainer import Trainer, TrainingResult

__all__ = [
    "CheckpointError",
    "Losses",
    "NonFiniteError",
    "Processes",
    "Trainer",
    "TrainingResult",
    "TrainingStep",
    "draw_log",
    "held_out_evaluation",
    "join_processes",
    "mean_overlap",
    "read_log",
    "training_losses",
]
