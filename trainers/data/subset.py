"""Which images of the pool a run trains on, drawn once for all run seeds.

The rules make fair pairs: a balanced subset and its unbalanced partner come from the same pool, can have exactly the
same number of images, share as many images as their sizes allow, and group the same classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers import rng
from trainers.config import Balanced, Data, Full, LargeAndRare, ListFile, LongTailed, Pareto, StepProfile
from trainers.data.image_list import listed_numbers, read_image_list
from trainers.data.images import ImageData, Ints, numbers_by_class
from trainers.data.problem import DataProblem
from trainers.data.profiles import GROUPS, Group, Listed, allocate

__all__ = ["GROUPS", "Group", "Subset", "numbers_digest", "training_subset"]


@dataclass(frozen=True, eq=False)
class Subset:
    """The training images of a run.

    Attributes:
        indices: (N,), int64, ascending: numbers of the images in the pool (``ImageData.train``).
        class_names: in class order.
        class_counts: images of each class, in class order.
        order: class numbers, the class that the unbalanced profile makes most frequent first. Balanced subsets have
            the order that their partner has.
        groups: of each class, in class order.
        digest: of the images' numbers in the whole data set, 32 hex digits.
    """

    indices: Ints
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    order: tuple[int, ...]
    groups: tuple[Group, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.indices)


def training_subset(data: Data, images: ImageData) -> Subset:
    """Select the training images that ``data.profile`` asks for.

    The result depends on the labels of the pool, the profile, ``class_order`` and ``split_seed``, and for a list on
    what it names, and on nothing else.

    Args:
        images: the pool (:func:`trainers.data.load`).

    Raises:
        DataProblem: a class has fewer images than the profile asks for, or would get none, or a list does not fit.
    """
    labels, num_classes = images.train.labels, len(images.class_names)
    members = numbers_by_class(labels, num_classes)
    available = np.array([len(numbers) for numbers in members], np.int64)
    numbers, listed = None, None
    if isinstance(data.partner, ListFile):
        listing = read_image_list(Path(data.partner.path))
        numbers = listed_numbers(listing, images)
        listed = Listed(np.bincount(labels[numbers], minlength=num_classes), two_sizes=listing.classes is not None)
    allocation = allocate(data, available, listed)
    if isinstance(data.profile, Full):
        indices = np.arange(len(labels))
    elif isinstance(data.profile, ListFile) and numbers is not None:
        indices = np.sort(numbers)
    else:
        _check_counts(data, images, allocation.counts, available)
        indices = _drawn(members, allocation.counts, data.split_seed)
    return Subset(
        indices=indices,
        class_names=images.class_names,
        class_counts=tuple(int(count) for count in allocation.counts),
        order=tuple(int(label) for label in allocation.order),
        groups=allocation.groups,
        digest=numbers_digest(images.original_numbers(indices)),
    )


def numbers_digest(numbers: Ints) -> str:
    """Identifies a list of numbers: 32 hex digits of SHA-256 over 8 bytes each, the lowest first."""
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:32]


def _drawn(members: list[Ints], counts: Ints, split_seed: int) -> Ints:
    """``counts`` images of each class, ascending."""
    chosen = []
    for label, (numbers, count) in enumerate(zip(members, counts, strict=True)):
        # A prefix of one fixed order per class: a smaller subset lies inside every larger one.
        order = rng.permutation(rng.derive(split_seed, "subset", label), len(numbers))
        chosen.append(numbers[order[:count]])
    return np.sort(np.concatenate(chosen))


def _check_counts(data: Data, images: ImageData, counts: Ints, available: Ints) -> None:
    short = np.flatnonzero(counts > available)
    if len(short):
        label = int(short[np.argmax(counts[short] - available[short])])
        option, remedy = _remedy_for_too_many(data, int(counts[label]))
        raise DataProblem(
            f"data.profile asks for {counts[label]} training images of class {images.class_names[label]!r}, and "
            f"{images.source} has {available[label]}; {remedy}",
            option,
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        option, remedy = _remedy_for_none(data)
        raise DataProblem(
            f"data.profile leaves class {images.class_names[int(empty[0])]!r} of {images.source} without a training "
            f"image (its smallest class has {available.min()}); {remedy}",
            option,
        )


def _remedy_for_too_many(data: Data, count: int) -> tuple[str, str]:
    """The option that asks for ``count`` images of a class, and what to do about it."""
    match data.profile:
        case Balanced(size=int(size)) | LongTailed(size=int(size)):
            return "data.profile.size", f"lower data.profile.size (now {size})"
        case Pareto(n_min=n_min) if count == n_min:
            return "data.profile.n_min", f"lower data.profile.n_min (now {n_min})"
        case Pareto(n_max=n_max):
            return "data.profile.n_max", f"lower data.profile.n_max (now {n_max})"
        case LargeAndRare(rare_images=rare_images):
            return "data.profile.rare_images", f"lower data.profile.rare_images (now {rare_images})"
    return "data.profile.name", "match a smaller profile"


def _remedy_for_none(data: Data) -> tuple[str, str]:
    match data.profile:
        case Balanced(size=int()) | LongTailed(size=int()):
            return "data.profile.size", "raise data.profile.size"
        case LongTailed(imbalance=imbalance) | StepProfile(imbalance=imbalance):
            return "data.profile.imbalance", f"lower data.profile.imbalance (now {imbalance:g})"
        case Balanced(match_imbalance=float(imbalance)):
            return "data.profile.match_imbalance", f"lower data.profile.match_imbalance (now {imbalance:g})"
    return "data.profile.name", "match a larger profile"
