"""Options of the optimisation."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.config.fields import (
    IntTuple,
    Momentum,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    added_later,
)


class SGD(Section):
    """Stochastic gradient descent with momentum, as torch.optim.SGD computes it."""

    name: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    nesterov: bool = False


class AdamW(Section):
    """Adam with decoupled weight decay, as torch.optim.AdamW computes it."""

    name: Literal["adamw"] = "adamw"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


class LARS(Section):
    """SGD whose step of each tensor is proportional to the tensor's norm (You et al. 2017, arXiv 1708.03888).

    Tensors of one dimension (biases, norms) are neither decayed nor rescaled, as in SimCLR, BYOL and MoCo v3.
    """

    name: Literal["lars"] = "lars"
    momentum: Momentum = 0.9
    #: The trust ratio is this times the norm of a tensor over the norm of its update.
    trust_coefficient: PositiveFloat = 0.001
    #: Multiply by the learning rate what enters the momentum (SimCLR) instead of what leaves it (MoCo v3, BYOL).
    learning_rate_in_momentum: bool = False
    #: Norm of the update: of gradient and decay together (``update``: SimCLR, BYOL, MoCo v3), or the sum of their norms
    #: (``sum``: equation 6 of the paper, solo-learn).
    denominator: Literal["update", "sum"] = "update"
    #: Multiply an update not by its trust ratio, but by trust ratio / learning rate, and at most by this. With
    #: solo-learn's 1, the rate of a tensor is the smaller one of its trust ratio and the learning rate.
    clip_trust_ratio: PositiveFloat | None = None


Optimizer = Annotated[SGD | AdamW | LARS, Field(discriminator="name")]


class Cosine(Section):
    """Half a cosine from the learning rate to its end after a linear warm-up.

    ``per: epoch`` is MoCo v2's and ISD's staircase (the last epoch still above the end); ``per: step`` is MoCo v3's;
    ``per: next_epoch`` is the staircase one epoch ahead, whose last epoch stands at the end (MoCo's CIFAR notebook).
    """

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegativeFloat = 0.0
    per: Literal["step", "epoch", "next_epoch"] = "step"
    #: Learning rate at the first step of the warm-up, and at the end of the cosine; as shares of the peak.
    warmup_from: Annotated[float, Field(ge=0, le=1)] = added_later(0.0, neutral=0.0)
    end: Annotated[float, Field(ge=0, le=1)] = added_later(0.0, neutral=0.0)


class Step(Section):
    """Multiply the learning rate by ``factor`` once each number of completed epochs in ``milestones`` is reached."""

    name: Literal["step"] = "step"
    milestones: IntTuple = (120, 160)
    factor: PositiveFloat = 0.1
    #: Length of a linear warm-up from 0.
    warmup_epochs: NonNegativeFloat = added_later(0.0, neutral=0.0)


Schedule = Annotated[Cosine | Step, Field(discriminator="name")]


class Train(Section):
    """Optimisation. The batch is global: the world size divides it."""

    epochs: PositiveInt = 200
    batch_size: PositiveInt = 256
    optimizer: Optimizer = SGD()
    learning_rate: PositiveFloat = 0.03
    #: ``linear`` multiplies the learning rate by batch_size / 256 (Goyal et al. 2017), ``sqrt`` by sqrt(batch_size)
    #: (SimCLR's .075 * sqrt(B)).
    scale_learning_rate: Literal["none", "linear", "sqrt"] = added_later("none", neutral="none")
    weight_decay: NonNegativeFloat = 1e-4
    #: Leave biases and the parameters of norms (everything with one dimension) out of weight decay.
    decay_matrices_only: bool = False
    schedule: Schedule = Cosine()
    #: Scale gradients down to this global L2 norm. None does not clip.
    clip_gradient_norm: PositiveFloat | None = None
    #: Parts of a batch that go through the networks one after the other before the optimizer's step. What a method
    #: computes over a batch (batch statistics, comparisons within it), it computes over a part.
    accumulation: PositiveInt = added_later(1, neutral=1)
    #: bf16 runs the networks under autocast; losses and weights stay in fp32.
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _divisible(self) -> Train:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be divided into accumulation={self.accumulation} equal parts"
            )
        return self

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up, scaled to the batch as asked."""
        scale = {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}
        return self.learning_rate * scale[self.scale_learning_rate]
