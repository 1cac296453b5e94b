"""Accuracy over all test images, by class, and by group of classes: frequent, medium and rare ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainers.data.subset import GROUPS, Group

#: A confusion matrix of more classes would show nothing, and take more room than the network.
_MOST_CONFUSED_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies on the test images, all in percent.

    Attributes:
        top1: over all test images.
        top5: share of the images whose class is among the five most probable ones; None if that says nothing (five
            classes or fewer) or is not known (k-NN has no order of classes).
        per_class: by class name, in class order; NaN for a class without test images.
        groups: mean accuracy of the classes in each group; empty for a data set without groups.
        confusion: (C, C), int64, images by true class (row) and predicted class (column); None for more than 1,000
            classes.
    """

    top1: float
    top5: float | None = None
    per_class: dict[str, float]
    groups: dict[Group, float] = field(default_factory=dict)
    confusion: Tensor | None = field(default=None, compare=False, repr=False)

    def metrics(self) -> dict[str, float]:
        """``top1``, ``top5`` where there is one, and the groups by name."""
        top5 = {} if self.top5 is None else {"top5": self.top5}
        return {"top1": self.top1, **top5, **{str(group): accuracy for group, accuracy in self.groups.items()}}


def class_mean(per_class: Mapping[str, float]) -> float:
    """Mean of the classes' accuracies, the measure of Pets, Caltech-101 and Flowers; classes without images apart."""
    return statistics.fmean(_measured(per_class))


def class_std(per_class: Mapping[str, float]) -> float:
    """Standard deviation over the classes, of the population: SDCLR's "balancedness" (arXiv 2106.02990)."""
    return statistics.pstdev(_measured(per_class))


def _measured(per_class: Mapping[str, float]) -> list[float]:
    return [accuracy for accuracy in per_class.values() if not math.isnan(accuracy)]


def measure_accuracy(
    predictions: Tensor, labels: Tensor, class_names: Sequence[str], groups: Sequence[Group] | None
) -> Accuracy:
    """Compare predictions with the truth.

    Args:
        predictions: (N,) predicted classes, or (N, 5) the five most probable ones, most probable first.
        labels: (N,), class numbers.
        groups: of each class, in class order; None for a data set without groups.
    """
    ranked, labels = predictions.cpu().view(len(predictions), -1), labels.cpu()
    right = ranked[:, 0] == labels
    per_class = class_accuracies(ranked[:, 0], labels, len(class_names))
    has_five = ranked.shape[1] == 5 and len(class_names) > 5
    return Accuracy(
        top1=100 * right.double().mean().item(),
        top5=100 * (ranked == labels[:, None]).any(1).double().mean().item() if has_five else None,
        per_class=dict(zip(class_names, per_class, strict=True)),
        groups={} if groups is None else group_accuracies(per_class, groups),
        confusion=confusion_matrix(ranked[:, 0], labels, len(class_names)),
    )


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor | None:
    """Images by true class (row) and predicted class (column): (C, C), int64; None for more than 1,000 classes.

    Args:
        predictions, labels: (N,), class numbers.
    """
    if num_classes > _MOST_CONFUSED_CLASSES:
        return None
    pairs = labels * num_classes + predictions
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


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
