"""Training of GRM: losses, the step, and the loop around it."""

from .checkpoint import CheckpointError
from .distributed import Processes, join_processes
from .evaluation import held_out_evaluation, mean_overlap
from .log import draw_log, read_log
from .losses import Losses, training_losses
from .step import NonFiniteError, TrainingStep
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
