"""How many training images of each class a profile takes: arithmetic on the numbers that there are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from trainers import rng
from trainers.config import Balanced, Data, Full, LargeAndRare, ListFile, LongTailed, Pareto, StepProfile
from trainers.config.data import Unbalanced
from trainers.data.images import Ints

Group = Literal["many", "medium", "few"]
GROUPS: tuple[Group, ...] = ("many", "medium", "few")

#: ``groups: shots``: more images than the first number are many, fewer than the second are few (Liu et al. 2019).
_MANY_SHOT, _FEW_SHOT = 100, 20


@dataclass(frozen=True, eq=False)
class Allocation:
    """What a profile asks for.

    Attributes:
        counts: (C,), images of each class.
        order: (C,), class numbers, the class that the unbalanced profile makes most frequent first.
        groups: of each class.
    """

    counts: Ints
    order: Ints
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Listed:
    """What the list of profile ``list_file`` has.

    Attributes:
        counts: (C,), images of each class.
        two_sizes: there are large and rare classes, and nothing between.
    """

    counts: Ints
    two_sizes: bool


def allocate(data: Data, available: Ints, listed: Listed | None = None) -> Allocation:
    """Images of each class, whether or not there are as many.

    A balanced subset that is matched to an unbalanced profile has the order and the groups of that profile.

    Args:
        available: (C,), training images of each class in the pool.
        listed: needed for profile ``list_file`` and what is matched to it.
    """
    partner = data.partner
    if partner is None:
        order = _class_order(data, len(available))
        counts = available if isinstance(data.profile, Full) else _unmatched(data, available, order)
        groups = _thirds(order) if data.groups == "profile" else _by_shots(counts)
        return Allocation(counts, order, groups)
    unbalanced = _unbalanced(partner, data, available, listed)
    if data.groups == "shots":
        unbalanced = replace(unbalanced, groups=_by_shots(unbalanced.counts))
    if isinstance(data.profile, Balanced):
        return replace(unbalanced, counts=_even(int(unbalanced.counts.sum()), unbalanced.order, data.split_seed))
    return unbalanced


def _unmatched(data: Data, available: Ints, order: Ints) -> Ints:
    size = data.profile.size if isinstance(data.profile, Balanced) else None
    return np.full(len(order), available.min()) if size is None else _even(size, order, data.split_seed)


def _unbalanced(profile: Unbalanced, data: Data, available: Ints, listed: Listed | None) -> Allocation:
    num_classes, smallest = len(available), int(available.min())
    order = _class_order(data, num_classes)
    match profile:
        case LongTailed(imbalance=imbalance, size=size):
            counts = (
                long_tailed_counts(smallest, num_classes, imbalance)
                if size is None
                else _apportioned(size, imbalance, num_classes)
            )
            return _in_order(counts, order, _thirds(order))
        case StepProfile(imbalance=imbalance):
            half = num_classes // 2
            counts = [smallest] * half + [math.floor(smallest / imbalance + 1e-9)] * (num_classes - half)
            return _in_order(counts, order, _large_and_rare(order, half))
        case Pareto():
            counts = pareto_counts(profile.n_max or smallest, num_classes, profile.alpha, profile.n_min)
            return _in_order(counts, order, _thirds(order))
        case LargeAndRare():
            order = _roles(profile, data.split_seed, num_classes)
            large, rare = order[: profile.large], order[profile.large :]
            counts = [*available[large].tolist(), *[profile.rare_images] * len(rare)]
            return _in_order(counts, order, _large_and_rare(order, profile.large))
        case ListFile():
            assert listed is not None, "profile list_file needs its list"
            order = np.argsort(-listed.counts, kind="stable")
            num_large = int((listed.counts > listed.counts.min()).sum())
            groups = _large_and_rare(order, num_large) if listed.two_sizes else _thirds(order)
            return Allocation(listed.counts, order, groups)


def _class_order(data: Data, num_classes: int) -> Ints:
    if data.class_order == "label":
        return np.arange(num_classes)
    return rng.permutation(rng.derive(data.split_seed, "class_order"), num_classes)


def _roles(profile: LargeAndRare, split_seed: int, num_classes: int) -> Ints:
    """Class numbers, the large ones first."""
    if profile.roles == "sorted":
        return np.arange(num_classes)
    drawn = rng.permutation(rng.derive(split_seed, "roles"), num_classes)
    return np.concatenate([np.sort(drawn[: profile.large]), np.sort(drawn[profile.large :])])


def _in_order(ordered_counts: list[int], order: Ints, groups: tuple[Group, ...]) -> Allocation:
    counts = np.zeros(len(order), np.int64)
    counts[order] = ordered_counts
    return Allocation(counts, order, groups)


def _even(total: int, order: Ints, split_seed: int) -> Ints:
    """``total`` images in classes that differ by one at most; ``split_seed`` draws those that have one more."""
    num_classes = len(order)
    ordered = np.full(num_classes, total // num_classes)
    ordered[rng.permutation(rng.derive(split_seed, "remainder"), num_classes)[: total % num_classes]] += 1
    counts = np.zeros(num_classes, np.int64)
    counts[order] = ordered
    return counts


def long_tailed_counts(num_max: int, num_classes: int, imbalance: float) -> list[int]:
    """Images per class, most frequent first, of the exponential profile (Cui et al. 2019; truncated, not rounded)."""
    if num_classes == 1:
        return [num_max]
    ratio = 1.0 / imbalance
    # The tiny addend keeps exact powers exact: 5000 * 0.01 ** 1.0 is 50.0, but 500 * 0.1 ** (1/1) may be 49.999….
    return [math.floor(num_max * ratio ** (i / (num_classes - 1)) + 1e-9) for i in range(num_classes)]


def pareto_counts(num_max: int, num_classes: int, alpha: float, num_min: int) -> list[int]:
    """Images per class, most frequent first: quantiles of a Pareto distribution (Liu et al. 2019), truncated.

    The quantiles of the shares (i + 1) / (C + 1), counted from the largest, less the smallest value that the
    distribution has, scaled to ``num_max``, and ``num_min`` at least.
    """
    quantiles = [((i + 1) / (num_classes + 1)) ** (-1 / alpha) - 1 for i in range(num_classes)]
    return [max(num_min, math.floor(num_max * quantile / quantiles[0] + 1e-9)) for quantile in quantiles]


def _apportioned(total: int, imbalance: float, num_classes: int) -> list[int]:
    """Exactly ``total`` images in the exponential shape: rounded down, then one more for the largest remainders."""
    shares = imbalance ** (-np.arange(num_classes) / max(1, num_classes - 1))
    ideal = total * shares / shares.sum()
    counts = np.floor(ideal + 1e-9).astype(np.int64)
    remainders = ideal - counts
    counts[np.argsort(-remainders, kind="stable")[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _thirds(order: Ints) -> tuple[Group, ...]:
    return _grouped(zip(GROUPS, np.array_split(order, len(GROUPS)), strict=True), len(order))


def _large_and_rare(order: Ints, num_large: int) -> tuple[Group, ...]:
    return _grouped([("many", order[:num_large]), ("few", order[num_large:])], len(order))


def _by_shots(counts: Ints) -> tuple[Group, ...]:
    return tuple("many" if count > _MANY_SHOT else "few" if count < _FEW_SHOT else "medium" for count in counts)


def _grouped(members_of: Iterable[tuple[Group, Ints]], num_classes: int) -> tuple[Group, ...]:
    group_of: dict[int, Group] = {}
    for group, members in members_of:
        group_of.update(dict.fromkeys(members.tolist(), group))
    return tuple(group_of[label] for label in range(num_classes))
