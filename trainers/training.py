"""Everything that one process of a run works on, and the part of it that a checkpoint must hold.

Randomness, learning rate and order of the images are functions of the step, so none of them is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainers import schedule
from trainers.assessment import Assessment, Assessor
from trainers.best import Best
from trainers.checkpoint import Checkpoints
from trainers.config import RunConfig
from trainers.data.loader import TrainLoader
from trainers.distributed import rank, world_size
from trainers.journal import Journal
from trainers.means import RunningMeans, Sums
from trainers.methods.base import Method, Progress
from trainers.rundir import RunDir
from trainers.speed import Speedometer
from trainers.stopping import Boundary
from trainers.system import SystemMonitor


@dataclass(kw_only=True)
class Training:
    """One process of a run.

    Attributes:
        method: the networks and their loss.
        model: what is called to train: the method, or DistributedDataParallel around it.
        boundary: what the ranks agree on between two steps.
        means: of the values logged since the last line of metrics.
        system: looks at the machine, on rank 0 alone.
        step: optimizer steps done.
        untrained: evaluation of the encoder before the first step; None if it is not wanted or not done yet.
        best: the encoder as of its best evaluation, on rank 0 alone; None if it is not wanted or none was done yet.
    """

    run_dir: RunDir
    run_id: str
    config: RunConfig
    device: torch.device
    method: Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: TrainLoader
    assessor: Assessor
    checkpoints: Checkpoints
    journal: Journal
    boundary: Boundary
    means: RunningMeans
    speed: Speedometer
    system: SystemMonitor | None = None
    step: int = 0
    untrained: Assessment | None = None
    best: Best | None = None

    @property
    def is_first_rank(self) -> bool:
        """Whether this process is the one that writes."""
        return rank() == 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training; none for a method without anything to train."""
        return self.config.train.epochs * self.loader.steps_per_epoch if self.method.is_trained else 0

    @property
    def progress(self) -> Progress:
        """Where the training is, before the next step."""
        return Progress(self.step, self.total_steps, self.loader.steps_per_epoch)

    def ends_epochs(self, every: int | None) -> bool:
        """Whether the last step ended an epoch whose number (from 1) ``every`` divides; never for None."""
        return every is not None and self.step > 0 and self.step % (every * self.loader.steps_per_epoch) == 0

    def learning_rate(self, step: int) -> float:
        return schedule.learning_rate(self.config.train, step=step, steps_per_epoch=self.loader.steps_per_epoch)


def capture(training: Training, sums: Sums) -> dict[str, Any]:
    """What a checkpoint holds: tensors, numbers, strings and containers of them.

    Args:
        sums: of all ranks. Everything else is the same on every rank.
    """
    return {
        "step": training.step,
        "method": training.method.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "sums": {"names": list(sums.names), "table": sums.table},
        "untrained": training.untrained.to_state() if training.untrained is not None else None,
        "best": training.best.to_state() if training.best is not None else None,
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Continue from what :func:`capture` gave, possibly with another number of ranks."""
    training.step = state["step"]
    training.method.load_state_dict(state["method"])
    training.optimizer.load_state_dict(state["optimizer"])
    sums = Sums(tuple(state["sums"]["names"]), state["sums"]["table"])
    training.means.restore(sums, rank(), world_size())
    training.untrained = Assessment.from_state(state["untrained"]) if state["untrained"] is not None else None
    best = state.get("best")
    # A best by another metric is none: the experiment asks for another one by now.
    if best is not None and best["metric"] != training.config.runtime.keep_best:
        best = None
    training.best = Best.from_state(best) if best is not None and rank() == 0 else None


def all_ranks() -> dist.ProcessGroup | None:
    """The group of all ranks; None in a run of one process, which needs none."""
    return dist.group.WORLD if dist.is_initialized() else None
