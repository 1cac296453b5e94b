"""Labelled images, either as one array in memory (or mapped from a file) or as files that are decoded when needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images of any size, decoded at each access.

    Attributes:
        archive: where the files are.
        names: (N,) names in the archive.
        labels: (N,), class numbers.
    """

    archive: Archive
    names: Sequence[str]
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)


ImageSet = ArrayImages | FileImages


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: every training image there is (the pool that profiles select from), and the test images.

    Attributes:
        name: as in ``config.Data.name``.
        source: where the images are, in the user's words, for messages.
        digest: identifies the content (32 hex digits): equal digests mean equal images in equal order.
        mean, std: of each channel over the training images, of values in [0, 1].
    """

    name: str
    source: str
    digest: str
    class_names: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
