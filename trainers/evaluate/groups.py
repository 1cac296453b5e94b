"""Accuracy by class and by group of classes: frequent, medium and rare ones, as the long-tailed profile orders them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.data.subset import GROUPS, Group


def class_accuracies(predictions: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """Percent of the images of each class that are predicted right; NaN for a class without images.

    Args:
        predictions, labels: (N,), class numbers.
    """
    right = torch.bincount(labels[predictions == labels], minlength=num_classes).double()
    total = torch.bincount(labels, minlength=num_classes).double()
    accuracies: list[float] = (100 * right / total).tolist()
    return accuracies


def group_accuracies(per_class: Sequence[float], groups: Sequence[Group]) -> dict[Group, float]:
    """Mean of the accuracies of a group's classes, in percent. Groups without classes are left out.

    Args:
        per_class, groups: accuracy and group of each class, in class order.
    """
    members = {
        group: [accuracy for accuracy, of in zip(per_class, groups, strict=True) if of == group] for group in GROUPS
    }
    return {group: sum(values) / len(values) for group, values in members.items() if values}
