"""Which images of the pool a run trains on: balanced or long-tailed, of a given size, drawn once for all run seeds.

The rules make fair pairs: a balanced and a long-tailed subset of one data set come from the same pool, can have exactly
the same number of images, share as many images as their sizes allow, and group the same classes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainers import rng
from trainers.config import Balanced, Data, LongTailed
from trainers.data.images import ImageData
from trainers.data.problem import DataProblem

Group = Literal["many", "medium", "few"]
GROUPS: tuple[Group, ...] = ("many", "medium", "few")


@dataclass(frozen=True, eq=False)
class Subset:
    """The training images of a run.

    Attributes:
        indices: (N,), int64, ascending: numbers of the images in the pool.
        class_names: in class order.
        class_counts: images of each class, in class order.
        order: class numbers, the class that the long-tailed profile makes most frequent first. Balanced subsets have
            the order that their long-tailed partner has.
        groups: of each class, in class order: thirds of ``order``.
        digest: of the index list, 32 hex digits.
    """

    indices: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    order: tuple[int, ...]
    groups: tuple[Group, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.indices)


def training_subset(data: Data, images: ImageData) -> Subset:
    """Select the training images that ``data.profile`` asks for.

    The result depends on the labels of the pool, the profile, ``class_order`` and ``split_seed``, and on nothing else.

    Raises:
        DataProblem: a class has fewer images than the profile asks for, or would get none.
    """
    labels = images.train.labels
    num_classes = len(images.class_names)
    available = np.bincount(labels, minlength=num_classes)
    order = _class_order(data, num_classes)
    num_max = int(available.min())
    ordered_counts = _profile_counts(data, num_max, num_classes)
    counts = np.zeros(num_classes, np.int64)
    counts[order] = ordered_counts
    _check_counts(data, images, counts, available)
    chosen = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        # A prefix of one fixed order per class: a smaller subset lies inside every larger one.
        shuffled = rng.permutation(rng.derive(data.split_seed, "subset", label), len(members))
        chosen.append(members[shuffled[: counts[label]]])
    indices = np.sort(np.concatenate(chosen)).astype(np.int64)
    return Subset(
        indices=indices,
        class_names=images.class_names,
        class_counts=tuple(int(count) for count in counts),
        order=tuple(int(label) for label in order),
        groups=_groups(order),
        digest=hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:32],
    )


def _class_order(data: Data, num_classes: int) -> npt.NDArray[np.int64]:
    if data.class_order == "label":
        return np.arange(num_classes)
    return rng.permutation(rng.derive(data.split_seed, "class_order"), num_classes)


def _groups(order: npt.NDArray[np.int64]) -> tuple[Group, ...]:
    group_of: dict[int, Group] = {}
    for group, members in zip(GROUPS, np.array_split(order, len(GROUPS)), strict=True):
        group_of.update(dict.fromkeys(members.tolist(), group))
    return tuple(group_of[label] for label in range(len(order)))


def _profile_counts(data: Data, num_max: int, num_classes: int) -> list[int]:
    """Images of each class, most frequent first, when the smallest class of the pool has ``num_max``."""
    match data.profile:
        case Balanced(size=None, match_imbalance=None):
            return [num_max] * num_classes
        case Balanced(size=size, match_imbalance=imbalance):
            total = size if size is not None else sum(long_tailed_counts(num_max, num_classes, imbalance or 1.0))
            counts = np.full(num_classes, total // num_classes)
            counts[rng.permutation(rng.derive(data.split_seed, "remainder"), num_classes)[: total % num_classes]] += 1
            return [int(count) for count in counts]
        case LongTailed(imbalance=imbalance, size=None):
            return long_tailed_counts(num_max, num_classes, imbalance)
        case LongTailed(imbalance=imbalance, size=int(size)):
            return _apportioned(size, imbalance, num_classes)
    raise AssertionError(f"unknown profile {data.profile!r}")


def long_tailed_counts(num_max: int, num_classes: int, imbalance: float) -> list[int]:
    """Images per class, most frequent first, of the exponential profile (Cui et al. 2019; truncated, not rounded)."""
    if num_classes == 1:
        return [num_max]
    ratio = 1.0 / imbalance
    # The tiny addend keeps exact powers exact: 5000 * 0.01 ** 1.0 is 50.0, but 500 * 0.1 ** (1/1) may be 49.999….
    return [math.floor(num_max * ratio ** (i / (num_classes - 1)) + 1e-9) for i in range(num_classes)]


def _apportioned(total: int, imbalance: float, num_classes: int) -> list[int]:
    """Exactly ``total`` images in the exponential shape: rounded down, then one more for the largest remainders."""
    shares = imbalance ** (-np.arange(num_classes) / max(1, num_classes - 1))
    ideal = total * shares / shares.sum()
    counts = np.floor(ideal + 1e-9).astype(np.int64)
    remainders = ideal - counts
    counts[np.argsort(-remainders, kind="stable")[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _check_counts(
    data: Data, images: ImageData, counts: npt.NDArray[np.int64], available: npt.NDArray[np.int64]
) -> None:
    short = np.flatnonzero(counts > available)
    if len(short):
        label = int(short[np.argmax(counts[short] - available[short])])
        raise DataProblem(
            f"data.profile asks for {counts[label]} training images of class {images.class_names[label]!r}, and "
            f"{images.source} has {available[label]}; lower data.profile.size (now {_asked_size(data)})"
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        remedy = "raise data.profile.size" if _asked_size(data) else "lower data.profile.imbalance"
        raise DataProblem(
            f"data.profile leaves class {images.class_names[int(empty[0])]!r} of {images.source} without a training "
            f"image (its smallest class has {available.min()}); {remedy}"
        )


def _asked_size(data: Data) -> int | None:
    return data.profile.size
