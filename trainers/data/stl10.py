"""STL-10 as its authors publish it: 5000 labelled training images, 100,000 unlabelled ones, 8000 test images.

Coates, Ng and Lee 2011, https://cs.stanford.edu/~acoates/stl10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.data.cache import Arrays
from trainers.data.decoded import binary_data
from trainers.data.images import ImageData
from trainers.data.problem import DataProblem

CLASS_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_FOLDER = "stl10_binary"
_LABELLED_FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
_UNLABELLED_FILE = "unlabeled_X.bin"


def load(root: Path, cache_dir: Path, *, unlabelled: bool = False) -> ImageData:
    """STL-10 from ``stl10_binary``, or from the folder around it, 96x96 pixels.

    Args:
        unlabelled: the training images are the labelled ones and, behind them, the unlabelled ones, with label -1.

    Raises:
        DataProblem: the files are not there, or damaged.
    """
    folder = next((path for path in (root, root / _FOLDER) if (path / _LABELLED_FILES[0]).is_file()), None)
    if folder is None:
        raise DataProblem(
            f"data.root={root} has no {_FOLDER}/{_LABELLED_FILES[0]}; extract stl10_binary.tar.gz there"
            if root.exists()
            else f"data.root={root} does not exist; set it to the folder that holds {_FOLDER}"
        )
    names = (*_LABELLED_FILES, _UNLABELLED_FILE) if unlabelled else _LABELLED_FILES
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataProblem(f"{folder} has no {missing[0]}; extract stl10_binary.tar.gz again")
    return binary_data(
        "stl10", root, CLASS_NAMES, cache_dir, [folder / name for name in names], lambda: _read(folder, unlabelled)
    )


def _read(folder: Path, unlabelled: bool) -> Arrays:
    """Read the files through torchvision, which compares their MD5 sums."""
    from torchvision.datasets import STL10  # takes seconds to import; needed once per cache

    if folder.name != _FOLDER:
        raise DataProblem(f"data.root={folder} holds STL-10's files under another name; call it {_FOLDER}")
    try:
        train, test = (
            STL10(str(folder.parent), split=split) for split in ("train+unlabeled" if unlabelled else "train", "test")
        )
    except RuntimeError as error:
        raise DataProblem(
            f"{folder} is incomplete or damaged (its MD5 sums are not STL-10's); extract stl10_binary.tar.gz again"
        ) from error
    return {
        "train_pixels": np.ascontiguousarray(train.data),
        "train_labels": train.labels.astype(np.int64),
        "test_pixels": np.ascontiguousarray(test.data),
        "test_labels": test.labels.astype(np.int64),
    }
