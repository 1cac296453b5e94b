"""What the training loop knows of a method, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Progress:
    """Where the training is. Schedules are functions of it alone, so it needs no state in a checkpoint.

    Attributes:
        step: optimizer steps done before the current one, from 0.
        total_steps: steps of the whole training.
        steps_per_epoch: steps of one epoch.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0 at the first step."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> float:
        """Epochs done, fractional."""
        return self.step / self.steps_per_epoch


class Method(nn.Module, ABC):
    """A self-supervised method: its networks, its loss on two views, and what happens after a step.

    ``state_dict()`` holds everything a checkpoint needs (student, teacher, queue, running statistics). Parameters with
    ``requires_grad`` are trained; the loop wraps the module in DistributedDataParallel without buffer broadcast.
    """

    @abstractmethod
    def forward(self, first: Tensor, second: Tensor, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of this rank's share of the global batch, and values to log.

        Args:
            first, second: (B_local, 3, H, W), normalised: the two views of the same images, in the same order. Rank r
                of W holds the images r, r + W, r + 2W, ... of the global batch.
            progress: where the training is.

        Returns:
            The loss, a scalar that DDP's averaging of gradients turns into the global batch's mean; and detached
            scalars by name, such as ``entropy``, each a mean over the local batch.
        """

    def after_step(self, progress: Progress) -> None:
        """Called after each optimizer step with the progress of that step (its number, not the next one's)."""

    @abstractmethod
    def encoders(self) -> dict[str, nn.Module]:
        """Networks to evaluate, (B, 3, H, W) -> (B, d), by name; the one that the paper evaluates comes first."""
