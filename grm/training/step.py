"""One training step: forward, loss, backward, clipping, optimiser."""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from grm_kernels import Category

from ..config import Config
from ..data.sample import Sample
from ..errors import NonFiniteError
from ..model import GRM, Division, normalize_images
from ..model.efficientnet import EfficientNetStem
from .distributed import Processes
from .losses import Losses, training_losses
from .optimization import make_optimizer, set_learning_rates
from .stream import Position

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingStep:
    """A model, its optimiser, and how one step changes them. Everything that a checkpoint has to hold is in here.

    Args:
        model: is moved to the device and trained in place.
        config: of the run. Its precision is settled: not "auto", which `Trainer` does.
        processes: that train together. Each has its own batch statistics, as published: gradients are averaged, batch
            normalisation is not synchronised, and the running statistics that count are those of the first process.

    """

    def __init__(self, model: GRM, config: Config, processes: Processes):
        self.config = config
        self.processes = processes
        self.device = processes.device
        # The stem and the head read and write in this order anyway.
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        if isinstance(model.encoder.stem, EfficientNetStem):
            model.encoder.stem.freeze(config.training.stem_frozen_blocks)
        self.optimizer = make_optimizer(model, config.training)
        self._average = copy.deepcopy(self.model).eval().requires_grad_(False) if config.training.average else None
        self.dtype = _DTYPES[config.training.precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        if config.training.compile:
            model.compile()
        self._forward: nn.Module = model
        if processes.count > 1:
            on_gpu = [self.device] if self.device.type == "cuda" else None
            self._forward = DistributedDataParallel(
                model, device_ids=on_gpu, gradient_as_bucket_view=True, broadcast_buffers=False
            )

    def __call__(self, batches: Sequence[Sample], positions: Sequence[Position], epoch_steps: int) -> dict[str, float]:
        """Makes a step.

        Args:
            batches: collated, one for each of this process's passes.
            positions: of the passes.
            epoch_steps: steps to an epoch.

        Returns:
            means over all passes of all processes: the terms of `Losses`, "gradient_norm" before clipping, and
            "share_a_L" for every layer L (from 1) that divides: the share of the search tokens in A.

        Raises:
            NonFiniteError: on every process if it is so on one.

        """
        training = self.config.training
        set_learning_rates(self.optimizer, training, positions[0].step, epoch_steps)
        self.optimizer.zero_grad()
        reports = []
        for i, (batch, position) in enumerate(zip(batches, positions, strict=True)):
            # Gradients are averaged over the processes once, in the last pass.
            more = i + 1 < len(batches) and isinstance(self._forward, DistributedDataParallel)
            with self._forward.no_sync() if more else nullcontext():
                losses, divisions = self.losses(batch, position)
                self.scaler.scale(losses.total).backward()
            reports.append(report(losses, divisions))

        # Divided here and not in the loss: what limits gradients on their way has to see the same in every pass.
        for parameter in self.model.parameters():
            if len(batches) > 1 and parameter.grad is not None:
                parameter.grad /= len(batches)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), float("inf") if training.clip_norm is None else training.clip_norm
        )
        names = ["gradient_norm", *reports[0]]
        values = torch.stack([norm, *torch.stack([torch.stack([*r.values()]) for r in reports]).mean(0)])
        metrics = dict(zip(names, self.processes.mean(values.detach()).tolist(), strict=True))
        self._check_finite(metrics)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._follow(positions[0].step)
        return metrics

    @property
    def result(self) -> GRM:
        """The model that is evaluated and saved: of the mean weights, in evaluation mode, if a mean is kept."""
        return self.model if self._average is None else self._average

    def _follow(self, step: int) -> None:
        if self._average is None:
            return
        # The first steps count for little: a mean of the weights that training began with says nothing.
        keep = min(self.config.training.average, (1 + step) / (10 + step))
        mean, now = self._average.state_dict(), self.model.state_dict()
        followed = [name for name, tensor in mean.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mean[name] for name in followed], [now[name] for name in followed], 1 - keep)

    def losses(self, batch: Sample, position: Position) -> tuple[Losses, tuple[Division, ...]]:
        """Forward pass and loss of one batch, with the noise of its position."""
        torch.manual_seed(position.noise_seed(self.config.training.seed))
        tensors = (batch.template, batch.search, batch.box, batch.template_box, batch.brightness)
        template, search, box, template_box, brightness = (t.to(self.device, non_blocking=True) for t in tensors)
        template, search = (
            normalize_images(brightened(images.contiguous(memory_format=torch.channels_last), factors))
            for images, factors in zip((template, search), brightness.unbind(1), strict=True)
        )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = self._forward(template, search, template_box=template_box)
        return training_losses(prediction, box, self.config.training.loss), prediction.divisions

    def state(self) -> dict[str, dict]:
        """What `load` needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": {} if self._average is None else self._average.state_dict(),
        }

    def load(self, state: dict[str, dict]) -> None:
        """Takes over a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _check_finite(self, metrics: dict[str, float]) -> None:
        # Gradients that overflow float16 are the scaler's business, as long as it scales: it leaves the step out and
        # scales less.
        checked = ["total"] if self.scaler.is_enabled() else ["total", "gradient_norm"]
        wrong = {name: metrics[name] for name in checked if not math.isfinite(metrics[name])}
        if not math.isfinite(metrics["gradient_norm"]) and self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            wrong["gradient_norm"] = metrics["gradient_norm"]
        if wrong:
            raise NonFiniteError(", ".join(f"{name} is {value}" for name, value in wrong.items()))


def brightened(images: Tensor, factors: Tensor) -> Tensor:
    """Images (B, 3, h, w) from 0 to 255, each times its factor (B,), limited to 255: float32, not rounded."""
    return (images.float() * factors.view(-1, 1, 1, 1)).clamp_(max=255)


def report(losses: Losses, divisions: Sequence[Division]) -> dict[str, Tensor]:
    """Scalars worth looking at, still on the device."""
    shares = {}
    for number, division in enumerate(divisions, start=1):
        if division.log_probs is None:
            continue
        if division.categories is None:
            share = division.policy[..., Category.A].mean()
        else:
            share = (division.categories == Category.A).float().mean()
        shares[f"share_a_{number}"] = share
    return {name: value.detach().float() for name, value in {**losses._asdict(), **shares}.items()}
