"""Tiny-ImageNet: 200 classes of 500 training and 50 validation images of 64x64 pixels, decoded once into the cache.

Stanford's course CS231n, ``tiny-imagenet-200.zip``: ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and
``val/val_annotations.txt``. Its ``test`` has no labels and is not used.
"""

from __future__ import annotations

from pathlib import Path

from trainers.data.archive import Archive
from trainers.data.class_folders import class_folders, find_splits, images_by_class
from trainers.data.decoded import decoded_files
from trainers.data.images import ImageData
from trainers.data.problem import DataProblem

_SIDE = 64
_ANNOTATIONS = "val_annotations.txt"


def load(root: Path, cache_dir: Path) -> ImageData:
    """Tiny-ImageNet from its folder or zip file, or from the folder around it.

    The validation images may also lie in class folders, as many copies have them.

    Raises:
        DataProblem: the layout is another one, an annotation is missing or a file damaged.
    """
    splits = find_splits(root)
    train, validation = images_by_class(splits.archive, splits.train), f"{splits.base}val/"
    if splits.archive.folders(validation) == ["images"]:
        test = _annotated(splits.archive, validation)
    else:
        test = images_by_class(splits.archive, validation)
    return decoded_files("tiny_imagenet", root, class_folders(splits, train, validation, test), _SIDE, cache_dir)


def _annotated(archive: Archive, folder: str) -> dict[str, list[str]]:
    """Class name -> validation images. A line of the annotations is file, class and the corners of a box."""
    annotations = f"{folder}{_ANNOTATIONS}"
    class_of: dict[str, str] = {}
    for number, line in enumerate(archive.read(annotations).decode(errors="replace").splitlines(), start=1):
        words = line.split()
        if len(words) < 2:
            raise DataProblem(
                f"{archive.locate(annotations)}:{number}: {line!r} is not '<file> <class> …'; extract "
                "tiny-imagenet-200.zip again"
            )
        class_of[words[0]] = words[1]
    result: dict[str, list[str]] = {}
    for name in archive.images(f"{folder}images/"):
        class_name = class_of.pop(name.rpartition("/")[2], None)
        if class_name is None:
            raise DataProblem(
                f"{archive.locate(name)} has no line in {_ANNOTATIONS}; extract tiny-imagenet-200.zip again"
            )
        result.setdefault(class_name, []).append(name)
    if class_of:
        raise DataProblem(
            f"{archive.locate(folder)}images has no {min(class_of)!r}, which {_ANNOTATIONS} names; extract "
            "tiny-imagenet-200.zip again"
        )
    return result
