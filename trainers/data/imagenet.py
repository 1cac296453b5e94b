"""ImageNet (ILSVRC 2012) and its subset ImageNet-100, as files that are decoded at each access.

Russakovsky et al. 2015. ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``; a WNID is WordNet's number of a class, such
as n01440764.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainers.data.class_folders import Splits, find_class_folders, find_splits
from trainers.data.image_folder import file_data
from trainers.data.images import ImageData
from trainers.data.names import read_names
from trainers.data.problem import DataProblem

_NUM_CLASSES = 1000
_IMAGENET100 = Path(__file__).with_name("imagenet100.txt")


def load(root: Path) -> ImageData:
    """All thousand classes.

    Raises:
        DataProblem: the layout is another one, or there are not a thousand classes.
    """
    splits = find_splits(root)
    _check_sorted(splits)
    classes = splits.archive.folders(splits.train)
    if len(classes) != _NUM_CLASSES:
        raise DataProblem(
            f"data.root={root} has {len(classes)} folders in train, and data.name=imagenet needs ImageNet's "
            f"{_NUM_CLASSES} classes; use data.name=image_folder with a label for a part of it"
        )
    return file_data("imagenet", root, find_class_folders(root))


def load_100(root: Path) -> ImageData:
    """The hundred classes of ImageNet-100, wherever there are others beside them.

    Raises:
        DataProblem: the layout is another one, or a class is missing.
    """
    splits = find_splits(root)
    _check_sorted(splits)
    wanted = imagenet100_classes()
    _check_all_there(root, splits, wanted)
    return file_data("imagenet100", root, find_class_folders(root, only=wanted))


def imagenet100_classes() -> tuple[str, ...]:
    """The WNIDs of ImageNet-100, in the order of their source."""
    return read_names(_IMAGENET100, option="data.name")


def _check_all_there(root: Path, splits: Splits, wanted: Iterable[str]) -> None:
    for folder in (splits.train, splits.test()):
        missing = sorted(set(wanted) - set(splits.archive.folders(folder)))
        if missing:
            raise DataProblem(
                f"data.root={root} has no class {missing[0]!r} in {folder.rstrip('/').rpartition('/')[2]}, and "
                f"data.name=imagenet100 needs the classes of {_IMAGENET100.name} ({len(missing)} are missing)"
            )


def _check_sorted(splits: Splits) -> None:
    """Refuse the flat folder that the validation images are published as: the files do not say their classes."""
    folder = splits.test()
    if not splits.archive.folders(folder) and splits.archive.images(folder):
        raise DataProblem(
            f"{splits.archive.locate(folder)} holds images without class folders; sort them into "
            f"{folder}<wnid>/ by the validation ground truth of ImageNet's development kit (torchvision.datasets."
            "ImageNet does it when it first reads the original archives)"
        )
