"""The pool: what of a data set takes part in a run, before a profile selects the images that are trained on.

Leaving out classes changes the test images and the numbers of the classes too, so that an evaluation sees a smaller
data set and need not know.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainers import rng
from trainers.config import Data, LargeAndRare, ListFile
from trainers.data.image_list import listed_numbers, read_image_list
from trainers.data.images import FileImages, ImageData, ImageSet, Ints, numbers_by_class
from trainers.data.names import read_names
from trainers.data.problem import DataProblem


def select_pool(data: Data, images: ImageData) -> ImageData:
    """Keep the classes of ``data.class_list``, set aside ``data.holdout_per_class`` images, keep the profile's classes.

    Depends on the labels, these options and ``split_seed`` alone. Images in memory are copied where any is left out.

    Raises:
        DataProblem: a class is not there, or has too few images, or a list does not fit the data set.
    """
    if data.class_list is not None:
        images = _keep_classes(images, _labels_of_list(Path(data.class_list), images))
    if data.holdout_per_class:
        images = _set_aside(images, data.holdout_per_class, data.split_seed)
    match data.partner:
        case LargeAndRare() as profile:
            return _keep_classes(images, _drawn_classes(profile, data.split_seed, images))
        case ListFile(path=path):
            numbers = listed_numbers(read_image_list(Path(path)), images)
            return _keep_classes(images, np.unique(images.train.labels[numbers]))
    return images


def _labels_of_list(path: Path, images: ImageData) -> Ints:
    """Class numbers, ascending, of the classes that a file names."""
    names = read_names(path, "data.class_list")
    label_of = {name: label for label, name in enumerate(images.class_names)}
    unknown = [name for name in names if name not in label_of]
    if unknown:
        raise DataProblem(
            f"data.class_list={path} names {unknown[0]!r}, which is no class of {images.source} "
            f"({len(unknown)} of {len(names)} are not; its first is {images.class_names[0]!r})",
            "data.class_list",
        )
    return np.array(sorted(label_of[name] for name in names), np.int64)


def _drawn_classes(profile: LargeAndRare, split_seed: int, images: ImageData) -> Ints:
    wanted, num_classes = profile.large + profile.rare, len(images.class_names)
    if wanted > num_classes:
        raise DataProblem(
            f"data.profile=large_and_rare draws large={profile.large} and rare={profile.rare} classes, and "
            f"{images.source} has {num_classes}",
            "data.profile.rare",
        )
    return np.sort(rng.permutation(rng.derive(split_seed, "classes"), num_classes)[:wanted])


def _set_aside(images: ImageData, per_class: int, split_seed: int) -> ImageData:
    held = []
    for label, members in enumerate(numbers_by_class(images.train.labels, len(images.class_names))):
        if len(members) <= per_class:
            raise DataProblem(
                f"data.holdout_per_class={per_class} leaves class {images.class_names[label]!r} of {images.source} "
                f"without a training image (it has {len(members)})",
                "data.holdout_per_class",
            )
        held.append(members[rng.permutation(rng.derive(split_seed, "holdout", label), len(members))[:per_class]])
    held_numbers = np.sort(np.concatenate(held))
    remaining = np.setdiff1d(np.arange(len(images.train)), held_numbers, assume_unique=True)
    held_out = images.original_numbers(held_numbers)
    return replace(_with_train(images, remaining, images.train.labels[remaining]), held_out=held_out)


def _keep_classes(images: ImageData, chosen: Ints) -> ImageData:
    """The data set of these classes (ascending), numbered 0 … len(chosen) - 1."""
    if len(chosen) == len(images.class_names):
        return images
    new_label = np.full(len(images.class_names), -1, np.int64)
    new_label[chosen] = np.arange(len(chosen))

    def kept(part: ImageSet) -> tuple[Ints, Ints]:
        labels = new_label[part.labels]
        numbers = np.flatnonzero(labels >= 0)
        return numbers, labels[numbers]

    return replace(
        _with_train(images, *kept(images.train)),
        class_names=tuple(images.class_names[label] for label in chosen),
        test=images.test.take(*kept(images.test)),
    )


def _with_train(images: ImageData, numbers: Ints, labels: Ints) -> ImageData:
    train = images.train.take(numbers, labels)
    files = images.train_files
    if files is not None:
        files = train if isinstance(train, FileImages) else files.take(numbers, labels)
    return replace(images, train=train, train_files=files, train_numbers=images.original_numbers(numbers))
