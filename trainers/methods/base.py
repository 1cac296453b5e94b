"""What the training loop knows of a method, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trainers.batch import Batch


@dataclass(frozen=True)
class Progress:
    """Where the training is. Schedules are functions of it alone, so it needs no state in a checkpoint.

    Attributes:
        step: optimizer steps done before the current one, from 0.
        total_steps: steps of the whole training.
        steps_per_epoch: steps of one epoch.
        part: which part of the step's batch is being computed, from 0. There is more than one part with
            ``train.accumulation`` alone.
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    part: int = 0

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0 at the first step."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> float:
        """Epochs done, fractional."""
        return self.step / self.steps_per_epoch


class Method(nn.Module, ABC):
    """A method: its networks, its loss on the views of a batch, and what happens after a step.

    ``state_dict()`` holds everything a checkpoint needs (student, teacher, queue, running statistics). Parameters with
    ``requires_grad`` are trained; the loop wraps the module in DistributedDataParallel without buffer broadcast.

    A subclass is built from the run's configuration and the number of classes of its training images.

    Attributes:
        is_trained: whether there is anything to train; without, a run has no steps and is only evaluated.
    """

    is_trained: ClassVar[bool] = True

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of this rank's share of the global batch, and values to log.

        Args:
            batch: this rank's share, or one part of it.
            progress: where the training is. What happens once per step happens in part 0.

        Returns:
            The loss, a scalar that DDP's averaging of gradients turns into the global batch's mean; and detached
            scalars by name, such as ``entropy``, each a mean over the local batch.
        """

    def after_step(self, progress: Progress) -> None:
        """Called after each optimizer step with the progress of that step (its number, not the next one's)."""

    @abstractmethod
    def encoders(self) -> dict[str, nn.Module]:
        """Networks to evaluate, (B, 3, H, W) -> (B, d); the one that the paper evaluates comes first.

        Named ``student``, which is the network that is trained, and ``teacher``.
        """

    def embedders(self) -> dict[str, nn.Module]:
        """As :meth:`encoders` with their projectors, (B, 3, H, W) -> (B, D); without those that have none."""
        return {}
