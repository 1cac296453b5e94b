"""Lists of training images: the format of ISD's D1 … D10, and plain lines ``<path> [<label>]`` (ImageNet-LT).

ISD (https://github.com/UMBCvision/ISD/tree/4bdd603/unbalanced_dataset): a line ``class names :``, the classes, a line
``Train Images:``, and one path a line, such as ``/train/n01498041/n01498041_1.JPEG``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.data.images import ImageData, Ints
from trainers.data.names import read_lines
from trainers.data.problem import DataProblem

_OPTION = "data.profile.path"
_CLASSES_HEADING, _IMAGES_HEADING = "class names", "train images"


@dataclass(frozen=True)
class ListedImage:
    """A line of a list.

    Attributes:
        line: its number in the file, from 1.
        label: what is written behind the path, if anything.
    """

    line: int
    path: str
    label: int | None


@dataclass(frozen=True)
class ImageList:
    """A list as it is written, before it is compared with a data set.

    Attributes:
        classes: name -> number of the line, of the classes that ISD's format names; None for plain lists.
    """

    source: Path
    classes: Mapping[str, int] | None
    images: Sequence[ListedImage]


def read_image_list(path: Path) -> ImageList:
    """Read a list of either format.

    Raises:
        DataProblem: the file cannot be read, names nothing, or a heading of ISD's format is missing.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path, _OPTION), start=1)]
    lines = [(number, line) for number, line in lines if line]
    classes = None
    if lines and _is_heading(lines[0][1], _CLASSES_HEADING):
        end = next((place for place, (_, line) in enumerate(lines) if _is_heading(line, _IMAGES_HEADING)), None)
        if end is None:
            raise DataProblem(f"{path} begins with 'class names :' and has no line 'Train Images:'", _OPTION)
        classes = {name: number for number, name in lines[1:end]}
        lines = lines[end + 1 :]
    if not lines:
        raise DataProblem(f"{path} names no image; write one path a line, such as train/<class>/<file>", _OPTION)
    return ImageList(path, classes, [_listed(number, line) for number, line in lines])


def listed_numbers(listing: ImageList, images: ImageData) -> Ints:
    """The numbers of the listed images among the training images, (n,), in the order of the list.

    A path stands for the file that its end names, below the folder of the training images; where several endings name
    one, the longest counts.

    Raises:
        DataProblem: an image is not there or listed twice, or its class contradicts the list; or the data set was
            published as arrays and has no files.
    """
    numbers = _find(listing, images)
    labels = images.train.labels[numbers]
    _check_listed_once(listing, numbers)
    _check_labels(listing, labels, images.class_names)
    if listing.classes is not None:
        _check_headed_classes(listing, listing.classes, labels, images)
    return numbers


def _find(listing: ImageList, images: ImageData) -> Ints:
    files = images.train_files
    if files is None:
        raise DataProblem(
            f"data.profile=list_file names files, and data.name={images.name} at {images.source} has none; use a copy "
            "in class folders",
            "data.profile.name",
        )
    lines_of: dict[str, list[int]] = {}
    for place, listed in enumerate(listing.images):
        for ending in _endings(listed.path):
            lines_of.setdefault(ending, []).append(place)
    numbers = np.full(len(listing.images), -1, np.int64)
    lengths = np.zeros(len(listing.images), np.int64)
    for number, name in enumerate(files.names):
        below = name[len(files.folder) :]
        for place in lines_of.get(below, ()):
            if len(below) > lengths[place]:
                numbers[place], lengths[place] = number, len(below)
    missing = np.flatnonzero(numbers < 0)
    if len(missing):
        first = listing.images[missing[0]]
        raise DataProblem(
            f"{listing.source}:{first.line}: {first.path} is not among the training images of {images.source} "
            f"({len(missing)} of {len(numbers)} are missing)",
            _OPTION,
        )
    return numbers


def _endings(path: str) -> Iterator[str]:
    """``/train/a/b.jpg``: ``a/b.jpg`` and ``train/a/b.jpg``. A file name alone does not tell the class."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/".join(parts[start:]) for start in range(len(parts) - 1))


def _check_listed_once(listing: ImageList, numbers: Ints) -> None:
    order = np.argsort(numbers, kind="stable")
    again = np.flatnonzero(np.diff(numbers[order]) == 0)
    if len(again):
        first, second = (listing.images[place] for place in order[again[0] : again[0] + 2])
        raise DataProblem(
            f"{listing.source}:{second.line}: {second.path} is in line {first.line} already; remove one", _OPTION
        )


def _check_labels(listing: ImageList, labels: Ints, class_names: Sequence[str]) -> None:
    """The label behind a path must stand for one class alone: two files would be mixed up otherwise."""
    written: dict[int, ListedImage] = {}
    for listed, label in zip(listing.images, labels.tolist(), strict=True):
        if listed.label is None:
            continue
        first = written.setdefault(label, listed)
        if first.label != listed.label:
            raise DataProblem(
                f"{listing.source}:{listed.line}: class {class_names[label]!r} has label {listed.label} here and "
                f"{first.label} in line {first.line}",
                _OPTION,
            )


def _check_headed_classes(listing: ImageList, classes: Mapping[str, int], labels: Ints, images: ImageData) -> None:
    present = {images.class_names[label] for label in np.unique(labels)}
    for name, line in classes.items():
        if name not in present:
            raise DataProblem(f"{listing.source}:{line}: class {name!r} has no image in the list", _OPTION)
    for listed, label in zip(listing.images, labels.tolist(), strict=True):
        if images.class_names[label] not in classes:
            raise DataProblem(
                f"{listing.source}:{listed.line}: {listed.path} is of class {images.class_names[label]!r}, which the "
                "list does not name above 'Train Images:'",
                _OPTION,
            )


def _is_heading(line: str, heading: str) -> bool:
    return line.rstrip(" :").lower() == heading


def _listed(number: int, line: str) -> ListedImage:
    path, _, last = line.rpartition(" ")
    return (
        ListedImage(number, path.strip(), int(last)) if path and last.isdecimal() else ListedImage(number, line, None)
    )
