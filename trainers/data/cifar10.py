"""CIFAR-10, as torchvision keeps it or as a folder or zip file of images, decoded once into the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.archive import decode, pixels_of
from trainers.data.cache import Arrays, cached
from trainers.data.class_folders import find_class_folders
from trainers.data.images import ArrayImages, FileImages, ImageData
from trainers.data.problem import DataProblem

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2023, 0.1994, 0.2010)
_BINARY_FOLDER = "cifar-10-batches-py"
#: Images that one thread decodes in a row.
_CHUNK = 500


def load(root: Path, cache_dir: Path) -> ImageData:
    """CIFAR-10 from torchvision's ``cifar-10-batches-py`` (or the folder around it), or from images in class folders.

    torchvision's files keep their own order, which published index lists refer to; images in folders are ordered by
    class and name.

    Raises:
        DataProblem: neither form is there, a file is damaged, or the images are not CIFAR-10's.
    """
    binary = next((path for path in (root, root / _BINARY_FOLDER) if _is_binary(path)), None)
    if binary is not None:
        key = _key((path.name, path.stat().st_size) for path in sorted(binary.iterdir()))
        entry = cached(cache_dir, key, lambda: _read_binary(binary))
    else:
        found = find_class_folders(root)
        _check_classes(root, found.class_names)
        splits = (found.train, found.test)
        key = _key((name, split.archive.size(name)) for split in splits for name in split.names)
        entry = cached(cache_dir, key, lambda: _decode_files(found.train, found.test))
    arrays = entry.arrays
    return ImageData(
        name="cifar10",
        source=str(root),
        digest=entry.digest,
        class_names=CLASS_NAMES,
        train=ArrayImages(arrays["train_pixels"], np.array(arrays["train_labels"])),
        test=ArrayImages(arrays["test_pixels"], np.array(arrays["test_labels"])),
        mean=_MEAN,
        std=_STD,
    )


def _is_binary(path: Path) -> bool:
    return (path / "data_batch_1").is_file()


def _read_binary(folder: Path) -> Arrays:
    """Read torchvision's files through torchvision, which compares their MD5 sums before it unpickles them."""
    from torchvision.datasets import CIFAR10  # takes seconds to import; needed once per cache

    if folder.name != _BINARY_FOLDER:
        raise DataProblem(f"data.root={folder} holds CIFAR-10's batches under another name; call it {_BINARY_FOLDER}")
    try:
        splits = {name: CIFAR10(str(folder.parent), train=name == "train") for name in ("train", "test")}
    except RuntimeError as error:
        raise DataProblem(
            f"{folder} is incomplete or damaged (its MD5 sums are not CIFAR-10's); extract cifar-10-python.tar.gz again"
        ) from error
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, split in splits.items():
        arrays[f"{name}_pixels"] = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
        arrays[f"{name}_labels"] = np.array(split.targets, np.int64)
    return arrays


def _decode_files(train: FileImages, test: FileImages) -> Arrays:
    return {
        "train_pixels": _decode_all(train),
        "train_labels": train.labels,
        "test_pixels": _decode_all(test),
        "test_labels": test.labels,
    }


def _decode_all(images: FileImages) -> npt.NDArray[np.uint8]:
    """(N, 3, 32, 32). Threads suffice: decoding lets go of the interpreter."""
    result = np.empty((len(images), 3, _SIDE, _SIDE), np.uint8)

    def decode_chunk(start: int) -> None:
        for place in range(start, min(start + _CHUNK, len(images))):
            image = decode(images.archive, images.names[place])
            if image.size != (_SIDE, _SIDE):
                raise DataProblem(
                    f"{images.archive.locate(images.names[place])} is {image.width}x{image.height} pixels, and "
                    f"data.name=cifar10 needs {_SIDE}x{_SIDE}; use data.name=image_folder for other images"
                )
            result[place] = pixels_of(image)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(decode_chunk, range(0, len(images), _CHUNK)):
            pass
    return result


def _key(files: Iterable[tuple[str, int]]) -> str:
    """Name of the cache entry for these files: names and sizes."""
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(f"{name}\0{size}\n".encode())
    return f"cifar10-{digest.hexdigest()[:24]}"


def _check_classes(root: Path, class_names: tuple[str, ...]) -> None:
    for found, wanted, problem in (
        (CLASS_NAMES, class_names, "no class"),
        (class_names, CLASS_NAMES, "another class,"),
    ):
        different = sorted(set(found) - set(wanted))
        if different:
            raise DataProblem(
                f"data.root={root} has {problem} {different[0]!r}, and data.name=cifar10 needs CIFAR-10's ten classes; "
                f"use data.name=image_folder for other images"
            )
