"""Settings of a run that are legal and probably not meant: what ``sweep plan`` says before anything is started.

Papers and code bases use most of them on purpose somewhere, so nothing here is an error. What cannot work at all is in
:func:`trainers.config.run.inconsistencies`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from trainers.config.data import Balanced, Data, Full, LongTailed, StepProfile
from trainers.config.evaluate import Linear
from trainers.config.methods import GroupedOptions, MoCoV1, MoCoV2, QueueOptions
from trainers.config.run import RunConfig


class _Size(NamedTuple):
    """Training images of a data set: classes, images of the smallest class, and of all classes together."""

    classes: int
    smallest: int
    total: int


#: Those data sets whose sizes are known without reading them.
_SIZES: Mapping[str, _Size] = {
    "digits": _Size(10, 124, 1297),
    "cifar10": _Size(10, 5000, 50000),
    "cifar100": _Size(100, 500, 50000),
    "stl10": _Size(10, 500, 5000),
    "tiny_imagenet": _Size(200, 500, 100000),
    "imagenet": _Size(1000, 732, 1281167),
}
_STL10_UNLABELLED = 100000

#: Learning rates of linear classifiers: on normalised features the papers use .01, on raw ones up to 30.
_LARGEST_NORMALISED, _SMALLEST_MOCO = 3.0, 0.3


def advice(config: RunConfig) -> Iterator[str]:
    """What of ``config`` is probably not meant, one sentence each."""
    num_images = training_images(config.data)
    if isinstance(config.method, QueueOptions) and num_images is not None:
        yield from long_queue(config.method.queue_size, num_images)
    yield from _leaks_of_batch_norm(config)
    for key, linear in _linear_sections(config):
        yield from _rates_of_other_features(key, linear)


def advice_on(configs: Iterable[RunConfig]) -> Counter[str]:
    """What is probably not meant -> how many of these runs it is about.

    The runs of a grid share their sections; runs that share all sections that advice looks at are looked at once.
    """
    alike: Counter[tuple[int, ...]] = Counter()
    examples: dict[tuple[int, ...], RunConfig] = {}
    for config in configs:
        key = (id(config.method), id(config.data), id(config.train), id(config.evaluate))
        alike[key] += 1
        examples.setdefault(key, config)
    counts: Counter[str] = Counter()
    for shared, config in examples.items():
        for sentence in advice(config):
            counts[sentence] += alike[shared]
    return counts


def long_queue(queue_size: int, num_images: int) -> Iterator[str]:
    """A queue that holds most of the data set holds old keys of the very images that it is compared with."""
    if 2 * queue_size > num_images:
        yield (
            f"method.queue_size={queue_size} is more than half of the {num_images} training images: keys of the same "
            "image are among its negatives; a smaller queue means what the method means"
        )


def training_images(data: Data) -> int | None:
    """How many images are trained on, where that can be told without reading them; None where it cannot."""
    if data.class_list is not None or data.name not in _SIZES:
        return None
    classes, smallest, total = _SIZES[data.name]
    smallest -= data.holdout_per_class
    match data.profile:
        case Full():
            return total - classes * data.holdout_per_class + (_STL10_UNLABELLED if data.unlabelled else 0)
        case Balanced(size=None, match_imbalance=None, match=None):
            return classes * smallest
        case Balanced(size=int(size)) | LongTailed(size=int(size)):
            return size
    match data.partner:
        case LongTailed(size=int(size)):
            return size
        case LongTailed(imbalance=imbalance):
            shares = (imbalance ** (-number / (classes - 1)) for number in range(classes))
            return sum(_rounded_down(smallest * share) for share in shares)
        case StepProfile(imbalance=imbalance):
            return classes // 2 * smallest + (classes - classes // 2) * _rounded_down(smallest / imbalance)
    return None


def _rounded_down(value: float) -> int:
    return math.floor(value + 1e-9)  # 500 / 100 must be 5, whatever the last bit of the power is


def _leaks_of_batch_norm(config: RunConfig) -> Iterator[str]:
    """MoCo's queries and keys must not share a batch-norm group (arXiv 1911.05722, section 3.3)."""
    method = config.method
    if not isinstance(method, MoCoV1 | MoCoV2):
        return
    batch = config.train.batch_size // config.train.accumulation
    remedy = f"use a bn_group_size of at most {batch // 2}, and shuffle_keys=true"
    if _num_groups(method, batch) == 1:
        yield (
            f"method.bn_group_size={_shown(method.bn_group_size)} puts all {batch} images into one batch-norm group, "
            f"whose statistics tell queries which keys are theirs; {remedy}"
        )
    elif not method.shuffle_keys:
        yield (
            "method.shuffle_keys=false leaves each key in the batch-norm group of its query, whose statistics tell "
            f"queries which keys are theirs; {remedy}"
        )


def _num_groups(method: GroupedOptions, batch: int) -> int:
    return batch // (method.bn_group_size or batch)


def _shown(value: int | None) -> str:
    return "null" if value is None else str(value)


def _linear_sections(config: RunConfig) -> Iterator[tuple[str, Linear]]:
    evaluate = config.evaluate
    if evaluate.linear is not None:
        yield "evaluate.linear", evaluate.linear
    if evaluate.few_labels is not None:
        yield "evaluate.few_labels.linear", evaluate.few_labels.linear
    for transfer in evaluate.transfer:
        if transfer.linear is not None:
            yield f"evaluate.transfer ({transfer.title})", transfer.linear


def _rates_of_other_features(key: str, linear: Linear) -> Iterator[str]:
    """A learning rate belongs to the features: 30 to raw ones, .01 to normalised ones."""
    rates = linear.learning_rate or ()
    if linear.protocol in ("isd", "fast") and any(rate > _LARGEST_NORMALISED for rate in rates):
        yield (
            f"{key}.learning_rate={max(rates):g} belongs to raw features; protocol {linear.protocol} normalises them, "
            "and rates of .01 to 1 belong to it"
        )
    if linear.protocol in ("moco", "sdclr") and any(rate < _SMALLEST_MOCO for rate in rates):
        yield (
            f"{key}.learning_rate={min(rates):g} belongs to normalised features; protocol {linear.protocol} leaves "
            "them as they are, and 30 belongs to it"
        )
