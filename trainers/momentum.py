"""Momentum encoders: a teacher whose parameters are an exponential moving average of the student's.

Parameters only. The teacher's batch-norm statistics are its own: it stays in training mode and sees its own views, and
neither the papers' code nor we copy the student's buffers to it, at the start or later.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def make_teacher(student: Network) -> Network:
    """A copy of ``student`` that is not trained."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter: teacher = momentum * teacher + (1 - momentum) * student, in place.

    Args:
        teacher: what :func:`make_teacher` made of ``student``, or of a module of the same shape.
        student: the module that is trained; unchanged.
        momentum: share of the old value that is kept, 0 to 1.
    """
    averages: list[Tensor] = list(teacher.parameters())
    current: list[Tensor] = list(student.parameters())
    assert len(averages) == len(current), "the teacher is no copy of the student"
    torch._foreach_lerp_(averages, current, 1.0 - momentum)
