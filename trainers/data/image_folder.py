"""Any folder or zip file of images with class folders, decoded at each access."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainers.data.class_folders import ClassFolders, find_class_folders
from trainers.data.images import ImageData

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def load(root: Path) -> ImageData:
    """The images below ``root``.

    Raises:
        DataProblem: see :func:`trainers.data.class_folders.find_class_folders`.
    """
    return file_data("image_folder", root, find_class_folders(root))


def file_data(name: str, root: Path, found: ClassFolders) -> ImageData:
    """A data set of files, normalised with ImageNet's mean and deviation.

    The digest covers the names of the files only: asking for a million sizes takes minutes on network file systems.
    """
    digest = hashlib.sha256()
    for images in (found.train, found.test):
        digest.update("\n".join(images.names).encode() + b"\0")
    return ImageData(
        name=name,
        source=str(root),
        digest=digest.hexdigest()[:32],
        class_names=found.class_names,
        train=found.train,
        test=found.test,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        train_files=found.train,
    )
