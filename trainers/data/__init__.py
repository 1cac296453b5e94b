"""Data sets, the subsets that runs train on, and batches of them.

``load`` reads a data set, ``training_subset`` selects the images of a run, ``TrainLoader`` and ``eval_batches`` deliver
batches, ``dataset_record`` says what was used. Whatever the user can mend is a :class:`DataProblem`.
"""

from __future__ import annotations

from pathlib import Path

from trainers.config import Data
from trainers.data import digits
from trainers.data.images import ArrayImages, FileImages, ImageData, ImageSet
from trainers.data.loader import TrainLoader, eval_batches
from trainers.data.problem import DataProblem
from trainers.data.record import dataset_record
from trainers.data.subset import GROUPS, Group, Subset, training_subset

__all__ = [
    "GROUPS",
    "ArrayImages",
    "DataProblem",
    "FileImages",
    "Group",
    "ImageData",
    "ImageSet",
    "Subset",
    "TrainLoader",
    "dataset_record",
    "eval_batches",
    "load",
    "training_subset",
]


def load(data: Data, cache_dir: Path) -> ImageData:
    """The data set that ``data`` names.

    Args:
        cache_dir: where decoded images are kept for the next run; created if missing, shared by any number of runs.

    Raises:
        DataProblem: the data set is missing, damaged or not laid out as documented.
    """
    match data.name:
        case "digits":
            return digits.load()
        case "cifar10":
            from trainers.data import cifar10

            return cifar10.load(Path(data.root), cache_dir)
        case "image_folder":
            from trainers.data import image_folder

            return image_folder.load(Path(data.root))
