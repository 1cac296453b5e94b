"""Finding labelled images by their folders: ``train/<class>/…`` and ``val/<class>/…`` or ``test/<class>/…``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.data.archive import IMAGE_SUFFIXES, Archive, open_archive
from trainers.data.images import FileImages
from trainers.data.problem import DataProblem

#: Folders of test images, the preferred one first: ImageNet has both, and no labels for ``test``.
_TEST_FOLDERS = ("val", "test")


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """A data set in class folders; classes and files in the order of their names, whatever the file system's order."""

    class_names: tuple[str, ...]
    train: FileImages
    test: FileImages


def find_class_folders(root: Path) -> ClassFolders:
    """List the images of a folder or zip file. The splits lie in it, or in the one folder inside that has them.

    Raises:
        DataProblem: there is no such place, no split, no image, or the splits have different classes.
    """
    archive = open_archive(root)
    base = _base(archive, root)
    folders = archive.folders(base)
    test_folder = next((name for name in _TEST_FOLDERS if name in folders), None)
    if test_folder is None:
        raise DataProblem(
            f"{archive.locate(base)} has a folder train but neither val nor test, whose images are needed for "
            f"evaluation; put them into val/<class>/"
        )
    train = _by_class(archive, f"{base}train/")
    test = _by_class(archive, f"{base}{test_folder}/")
    _check_same_classes(archive, base, set(train), set(test), test_folder)
    class_names = tuple(sorted(train))
    return ClassFolders(class_names, _files(archive, class_names, train), _files(archive, class_names, test))


def _base(archive: Archive, root: Path) -> str:
    """Name of the folder that holds the splits, ``""`` or ending in ``/``."""
    top = archive.folders()
    if "train" in top:
        return ""
    candidates = [name for name in top if "train" in archive.folders(f"{name}/")]
    if len(candidates) == 1:
        return f"{candidates[0]}/"
    found = f"{len(candidates)} folders with one ({', '.join(candidates[:3])})" if candidates else "no folder train"
    raise DataProblem(
        f"data.root={root} has {found}; expected are train/<class>/ and val/<class>/ or test/<class>/ with images"
    )


def _by_class(archive: Archive, split: str) -> dict[str, list[str]]:
    """Class name -> names of its images, sorted."""
    result: dict[str, list[str]] = {}
    for name in archive.images(split):
        class_name, _, file = name[len(split) :].partition("/")
        if file:
            result.setdefault(class_name, []).append(name)
    if not result:
        raise DataProblem(
            f"{archive.locate(split)} has no image in a class folder; expected are files such as <class>/1.jpg "
            f"({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})"
        )
    return result


def _check_same_classes(archive: Archive, base: str, train: set[str], test: set[str], test_folder: str) -> None:
    for missing, there, absent in ((train - test, "train", test_folder), (test - train, test_folder, "train")):
        if missing:
            raise DataProblem(
                f"class {min(missing)!r} of {archive.locate(base)} has images in {there} but none in {absent}; "
                f"both need the same classes"
            )


def _files(archive: Archive, class_names: tuple[str, ...], by_class: dict[str, list[str]]) -> FileImages:
    names = [name for class_name in class_names for name in by_class[class_name]]
    counts = [len(by_class[class_name]) for class_name in class_names]
    return FileImages(archive, names, np.repeat(np.arange(len(class_names), dtype=np.int64), counts))
