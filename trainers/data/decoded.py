"""Small images of one size, decoded once into the cache that all runs share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.archive import decode, pixels_of
from trainers.data.cache import Arrays, Entry, cached
from trainers.data.class_folders import ClassFolders
from trainers.data.images import ArrayImages, FileImages, ImageData
from trainers.data.problem import DataProblem

#: Images that one thread decodes in a row.
_CHUNK = 500
#: Images whose pixels are counted at once.
_COUNTED = 1000

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def binary_data(
    name: str,
    root: Path,
    class_names: tuple[str, ...],
    cache_dir: Path,
    files: Iterable[Path],
    read: Callable[[], Arrays],
    statistics: Statistics | None = None,
) -> ImageData:
    """A data set that its authors published as arrays.

    Args:
        files: what is read; names and sizes name the cache entry.
        read: called if the cache does not have them: ``train_pixels`` (N, 3, H, W), ``train_labels`` (N,), and the same
            for ``test``.
        statistics: mean and deviation of each channel; None measures those of the labelled training images.
    """
    key = _key(name, ((path.name, path.stat().st_size) for path in files))
    entry = cached(cache_dir, key, _and_statistics(read, statistics))
    return _image_data(name, root, class_names, entry, statistics)


def decoded_files(
    name: str, root: Path, found: ClassFolders, side: int, cache_dir: Path, statistics: Statistics | None = None
) -> ImageData:
    """A data set of images that are all ``side`` x ``side`` pixels.

    Args:
        statistics: mean and deviation of each channel; None measures those of the training images.

    Raises:
        DataProblem: an image is damaged, or of another size.
    """

    def read() -> Arrays:
        return {
            "train_pixels": _decode_all(name, found.train, side),
            "train_labels": found.train.labels,
            "test_pixels": _decode_all(name, found.test, side),
            "test_labels": found.test.labels,
        }

    splits = (found.train, found.test)
    key = _key(name, ((file, split.archive.size(file)) for split in splits for file in split.names))
    entry = cached(cache_dir, key, _and_statistics(read, statistics))
    return _image_data(name, root, found.class_names, entry, statistics, found.train)


def _image_data(
    name: str,
    root: Path,
    class_names: tuple[str, ...],
    entry: Entry,
    statistics: Statistics | None,
    train_files: FileImages | None = None,
) -> ImageData:
    arrays = entry.arrays
    mean, std = statistics or arrays["statistics"].tolist()
    return ImageData(
        name=name,
        source=str(root),
        digest=entry.digest,
        class_names=class_names,
        train=ArrayImages(arrays["train_pixels"], np.array(arrays["train_labels"])),
        test=ArrayImages(arrays["test_pixels"], np.array(arrays["test_labels"])),
        mean=tuple(mean),
        std=tuple(std),
        train_files=train_files,
    )


def _and_statistics(read: Callable[[], Arrays], statistics: Statistics | None) -> Callable[[], Arrays]:
    def build() -> Arrays:
        arrays = read()
        if statistics is not None:
            return arrays
        labelled = np.flatnonzero(arrays["train_labels"] >= 0)
        return {**arrays, "statistics": channel_statistics(arrays["train_pixels"], labelled)}

    return build


def channel_statistics(pixels: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean and deviation of each channel, (2, 3), of values in [0, 1], to the four digits that papers print.

    Counted in integers, so that the order of the images and the machine do not matter.

    Args:
        pixels: (N, 3, H, W).
        numbers: the images that count.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(numbers), _COUNTED):
        part = pixels[numbers[start : start + _COUNTED]]
        counts += np.stack([np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    variance = counts @ values**2 / counts.sum(1) - mean**2
    return np.asarray(np.round(np.stack([mean, np.sqrt(variance)]), 4))


def _decode_all(name: str, images: FileImages, side: int) -> npt.NDArray[np.uint8]:
    """(N, 3, side, side). Threads suffice: decoding lets go of the interpreter."""
    result = np.empty((len(images), 3, side, side), np.uint8)

    def decode_chunk(start: int) -> None:
        for place in range(start, min(start + _CHUNK, len(images))):
            image = decode(images.archive, images.names[place])
            if image.size != (side, side):
                raise DataProblem(
                    f"{images.archive.locate(images.names[place])} is {image.width}x{image.height} pixels, and "
                    f"data.name={name} needs {side}x{side}; use data.name=image_folder for other images"
                )
            result[place] = pixels_of(image)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(decode_chunk, range(0, len(images), _CHUNK)):
            pass
    return result


def _key(name: str, files: Iterable[tuple[str, int]]) -> str:
    """Name of the cache entry for these files: names and sizes."""
    digest = hashlib.sha256()
    for file, size in files:
        digest.update(f"{file}\0{size}\n".encode())
    return f"{name}-{digest.hexdigest()[:24]}"
