"""Labelled images, either as one array in memory (or mapped from a file) or as files that are decoded when needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainers.data.archive import Archive

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Equally large images, decoded.

    Attributes:
        pixels: (N, 3, H, W), uint8; possibly mapped from a file.
        labels: (N,), class numbers.
    """

    pixels: npt.NDArray[np.uint8]
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, numbers: Ints, labels: Ints) -> ArrayImages:
        """The images with these numbers, (n,), copied into memory, under new labels, (n,)."""
        return ArrayImages(self.pixels[numbers], labels)


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images of any size, decoded at each access.

    Attributes:
        archive: where the files are.
        names: (N,) names in the archive.
        labels: (N,), class numbers.
        folder: what all names begin with: the folder of the split.
    """

    archive: Archive
    names: Sequence[str]
    labels: Ints
    folder: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, numbers: Ints, labels: Ints) -> FileImages:
        """The images with these numbers, (n,), under new labels, (n,)."""
        return FileImages(self.archive, [self.names[number] for number in numbers], labels, self.folder)


ImageSet = ArrayImages | FileImages


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: every training image there is (the pool that profiles select from), and the test images.

    Attributes:
        name: as in ``config.Data.name``.
        source: where the images are, in the user's words, for messages.
        digest: identifies the content (32 hex digits): equal digests mean equal images in equal order. Of the whole
            data set, also where classes or images are left out below.
        train: labels below 0 stand for unlabelled images.
        mean, std: of each channel over the training images, of values in [0, 1].
        train_files: the files of the training images, also where ``train`` holds them decoded; None if there are none.
        train_numbers: (N,), the numbers of the training images in the whole data set; None if they are 0 … N - 1.
        held_out: numbers in the whole data set of the training images that are set aside.
    """

    name: str
    source: str
    digest: str
    class_names: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train_files: FileImages | None = None
    train_numbers: Ints | None = None
    held_out: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def original_numbers(self, numbers: Ints) -> Ints:
        """The numbers in the whole data set of the training images with these numbers."""
        return numbers if self.train_numbers is None else self.train_numbers[numbers]


def numbers_by_class(labels: Ints, num_classes: int) -> list[Ints]:
    """The numbers of the images of each class, ascending; unlabelled images (label below 0) are in none."""
    labelled = np.flatnonzero(labels >= 0)
    order = labelled[np.argsort(labels[labelled], kind="stable")]
    counts = np.bincount(labels[labelled], minlength=num_classes)
    return np.split(order, np.cumsum(counts)[:-1])
