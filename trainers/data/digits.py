"""The 8x8 handwritten digits that come with scikit-learn: the data set that is always there."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from trainers import rng
from trainers.data.images import ArrayImages, ImageData
from trainers.data.problem import DataProblem

_NUM_CLASSES = 10
_TEST_IMAGES_PER_CLASS = 50
_TEST_SEED = 0  # the test images are the same in every run, whatever its seeds
_MEAN, _STD = 0.3053, 0.3762


def load() -> ImageData:
    """All 1797 digits, gray as three equal channels: 50 of each class are the test set, the others the pool.

    Raises:
        DataProblem: scikit-learn's file is not where it belongs.
    """
    table = _read_table()
    labels = table[:, 64].astype(np.int64)
    gray = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    pixels = np.repeat(gray, 3, axis=1)
    is_test = np.zeros(len(labels), np.bool_)
    for label in range(_NUM_CLASSES):
        members = np.flatnonzero(labels == label)
        order = rng.permutation(rng.derive(_TEST_SEED, "digits", "test", label), len(members))
        is_test[members[order[:_TEST_IMAGES_PER_CLASS]]] = True
    return ImageData(
        name="digits",
        source="scikit-learn's digits",
        digest=hashlib.sha256(pixels.tobytes() + labels.tobytes() + is_test.tobytes()).hexdigest()[:32],
        class_names=tuple(str(digit) for digit in range(_NUM_CLASSES)),
        train=ArrayImages(pixels[~is_test], labels[~is_test]),
        test=ArrayImages(pixels[is_test], labels[is_test]),
        mean=(_MEAN, _MEAN, _MEAN),
        std=(_STD, _STD, _STD),
    )


def _read_table() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(1797, 65): 64 values 0 … 16 and the label. Read without importing scikit-learn, which takes two seconds."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataProblem("data.name=digits reads a file of scikit-learn, which is not installed; install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt") as file:
            table: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataProblem(f"{path} cannot be read: {error}; install scikit-learn again") from error
    return table
