"""Data sets and the subsets that runs train on. Free of torch: batches are :mod:`trainers.data.loader`'s.

``load`` reads the data set of a run, ``load_named`` any other; ``training_subset`` selects the images that are trained
on, ``dataset_record`` says what was used and ``check_same_data`` whether it still is. Whatever the user can mend is a
:class:`DataProblem`.
"""

from __future__ import annotations

from pathlib import Path

from trainers.config import Data
from trainers.data.images import ArrayImages, FileImages, ImageData, ImageSet
from trainers.data.pool import select_pool
from trainers.data.problem import DataProblem
from trainers.data.record import check_same_data, dataset_record, write_dataset_record
from trainers.data.sources import load_named
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
    "check_same_data",
    "dataset_record",
    "load",
    "load_named",
    "training_subset",
    "write_dataset_record",
]


def load(data: Data, cache_dir: Path) -> ImageData:
    """The pool of a run: the data set that ``data`` names, without the classes and images that it leaves out.

    Args:
        cache_dir: where decoded images are kept for the next run; created if missing, shared by any number of runs.

    Raises:
        DataProblem: the data set is missing, damaged or not laid out as documented, or has not what is asked for.
    """
    images = load_named(data.name, Path(data.root), cache_dir, unlabelled=data.unlabelled)
    return select_pool(data, images)
