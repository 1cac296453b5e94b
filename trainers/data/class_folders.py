"""Finding labelled images by their folders: ``train/<class>/…`` and ``val/<class>/…`` or ``test/<class>/…``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.data.archive import IMAGE_SUFFIXES, Archive, open_archive
from trainers.data.images import FileImages
from trainers.data.problem import DataProblem

#: Folders of test images, the preferred one first: ImageNet has both, and no labels for ``test``.
_TEST_FOLDERS = ("val", "test")

#: Class name -> names of its images in the archive, sorted.
ByClass = Mapping[str, list[str]]


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """A data set in class folders; classes and files in the order of their names, whatever the file system's order."""

    class_names: tuple[str, ...]
    train: FileImages
    test: FileImages


@dataclass(frozen=True, eq=False)
class Splits:
    """Where the splits of a data set lie.

    Attributes:
        base: the folder that holds them, ``""`` or ending in ``/``.
    """

    archive: Archive
    base: str

    @property
    def train(self) -> str:
        """The folder of the training images, ending in ``/``."""
        return f"{self.base}train/"

    def test(self) -> str:
        """The folder of the test images, ending in ``/``.

        Raises:
            DataProblem: there is none.
        """
        folders = self.archive.folders(self.base)
        for name in _TEST_FOLDERS:
            if name in folders:
                return f"{self.base}{name}/"
        raise DataProblem(
            f"{self.archive.locate(self.base)} has a folder train but neither val nor test, whose images are needed "
            f"for evaluation; put them into val/<class>/"
        )


def find_class_folders(root: Path, only: Iterable[str] | None = None) -> ClassFolders:
    """List the images of a folder or zip file. The splits lie in it, or in the one folder inside that has them.

    Args:
        only: the classes to list; None lists all.

    Raises:
        DataProblem: there is no such place, no split, no image, or the splits have different classes.
    """
    splits = find_splits(root)
    test = splits.test()
    return class_folders(
        splits, images_by_class(splits.archive, splits.train, only), test, images_by_class(splits.archive, test, only)
    )


def find_splits(root: Path) -> Splits:
    """The folder of the splits, in a folder or zip file or in the one folder inside that has them.

    Raises:
        DataProblem: there is no such place, or no training images, or several folders with some.
    """
    archive = open_archive(root)
    top = archive.folders()
    if "train" in top:
        return Splits(archive, "")
    candidates = [name for name in top if "train" in archive.folders(f"{name}/")]
    if len(candidates) == 1:
        return Splits(archive, f"{candidates[0]}/")
    found = f"{len(candidates)} folders with one ({', '.join(candidates[:3])})" if candidates else "no folder train"
    raise DataProblem(
        f"data.root={root} has {found}; expected are train/<class>/ and val/<class>/ or test/<class>/ with images"
    )


def images_by_class(archive: Archive, split: str, only: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The images of a split (a folder, ending in ``/``), by the folder that they are in or below.

    Raises:
        DataProblem: there is none.
    """
    folders = [split] if only is None else [f"{split}{name}/" for name in only]
    result: dict[str, list[str]] = {}
    for folder in folders:
        for name in archive.images(folder):
            class_name, _, file = name[len(split) :].partition("/")
            if file:
                result.setdefault(class_name, []).append(name)
    if not result:
        raise DataProblem(
            f"{archive.locate(split)} has no image in a class folder; expected are files such as <class>/1.jpg "
            f"({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})"
        )
    return result


def class_folders(splits: Splits, train: ByClass, test_folder: str, test: ByClass) -> ClassFolders:
    """A data set of these images.

    Raises:
        DataProblem: a class has no training images, or no test images.
    """
    for there, absent, missing in (
        (splits.train, test_folder, set(train) - set(test)),
        (test_folder, splits.train, set(test) - set(train)),
    ):
        if missing:
            raise DataProblem(
                f"class {min(missing)!r} of {splits.archive.locate(splits.base)} has images in "
                f"{_last_folder(there)} but none in {_last_folder(absent)}; both need the same classes"
            )
    class_names = tuple(sorted(train))
    return ClassFolders(
        class_names,
        _files(splits.archive, splits.train, class_names, train),
        _files(splits.archive, test_folder, class_names, test),
    )


def _last_folder(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _files(archive: Archive, folder: str, class_names: tuple[str, ...], by_class: ByClass) -> FileImages:
    names = [name for class_name in class_names for name in by_class[class_name]]
    counts = [len(by_class[class_name]) for class_name in class_names]
    return FileImages(archive, names, np.repeat(np.arange(len(class_names), dtype=np.int64), counts), folder)
