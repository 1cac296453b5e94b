"""Every data set by the name that experiment files give it."""

from __future__ import annotations

from pathlib import Path

from trainers.config.data import DatasetName
from trainers.data import digits
from trainers.data.images import ImageData


def load_named(name: DatasetName, root: Path, cache_dir: Path, *, unlabelled: bool = False) -> ImageData:
    """A whole data set.

    Args:
        cache_dir: where decoded images are kept for the next run; created if missing, shared by any number of runs.
        unlabelled: with STL-10's unlabelled images among those to train on.

    Raises:
        DataProblem: the data set is missing, damaged or not laid out as documented.
    """
    match name:
        case "digits":
            return digits.load()
        case "cifar10" | "cifar100":
            from trainers.data import cifar

            return cifar.load(name, root, cache_dir)
        case "stl10":
            from trainers.data import stl10

            return stl10.load(root, cache_dir, unlabelled=unlabelled)
        case "tiny_imagenet":
            from trainers.data import tiny_imagenet

            return tiny_imagenet.load(root, cache_dir)
        case "imagenet":
            from trainers.data import imagenet

            return imagenet.load(root)
        case "imagenet100":
            from trainers.data import imagenet

            return imagenet.load_100(root)
        case "image_folder":
            from trainers.data import image_folder

            return image_folder.load(root)
