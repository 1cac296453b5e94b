"""Learning rate, momentum and loss weight as pure functions of the step. They need no state in a checkpoint.

Where code bases differ by one (``docs/methods.md``): here, epochs count from 0, the first step has the starting value,
and the value that would belong to the step after the last one is never used.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from trainers.config import Cosine, Step, Train


def learning_rate(train: Train, *, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one optimizer step.

    Args:
        train: the schedule, its peak and the number of epochs.
        step: optimizer steps done before this one, from 0.
        steps_per_epoch: optimizer steps of one epoch.
    """
    epoch, peak, schedule = step / steps_per_epoch, train.peak_learning_rate, train.schedule
    if epoch < schedule.warmup_epochs:
        first = peak * schedule.warmup_from if isinstance(schedule, Cosine) else 0.0
        return first + (peak - first) * epoch / schedule.warmup_epochs
    completed = step // steps_per_epoch
    if isinstance(schedule, Step):
        return peak * schedule.factor ** bisect_right(sorted(schedule.milestones), completed)
    warmup = schedule.warmup_epochs
    if schedule.per != "step":
        epoch = max(float(completed + (schedule.per == "next_epoch")), warmup)
    end = peak * schedule.end
    return end + (peak - end) * _half_cosine((epoch - warmup) / (train.epochs - warmup))


def cosine_momentum(initial: float, fraction: float, final: float | None = 1.0) -> float:
    """Momentum of a teacher that slows down along half a cosine over the whole training (MoCo v3, BYOL).

    Args:
        initial: momentum at the first step.
        fraction: share of the training that is done.
        final: momentum at the end; None keeps the initial one.
    """
    return initial if final is None else final - _half_cosine(fraction) * (final - initial)


def cosine_ramp(final: float, fraction: float) -> float:
    """Weight that grows: 0 at fraction 0 of the training, ``final`` at its end (SDSSL)."""
    return final * (1.0 - _half_cosine(fraction))


def _half_cosine(fraction: float) -> float:
    """1 at 0, 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))
