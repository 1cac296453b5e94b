"""CIFAR-10 and CIFAR-100, as torchvision keeps them or as folders or zip files of images, decoded once into the cache.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.cache import Arrays
from trainers.data.class_folders import find_class_folders
from trainers.data.decoded import Statistics, binary_data, decoded_files
from trainers.data.images import ImageData
from trainers.data.problem import DataProblem

_SIDE = 32

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())


@dataclass(frozen=True)
class _Cifar:
    """What tells the two data sets apart.

    Attributes:
        reader: name of torchvision's class.
        folder: torchvision's name of the folder of its files; ``probe`` is one of them.
        archive: what they are extracted from.
        statistics: mean and deviation to normalise with; None measures them.
    """

    title: str
    class_names: tuple[str, ...]
    reader: str
    folder: str
    probe: str
    archive: str
    statistics: Statistics | None


_CIFARS = {
    "cifar10": _Cifar(
        "CIFAR-10",
        CIFAR10_CLASSES,
        "CIFAR10",
        "cifar-10-batches-py",
        "data_batch_1",
        "cifar-10-python.tar.gz",
        # The deviation is MoCo's notebook's: the mean over the images of each one's own.
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cifar100": _Cifar(
        "CIFAR-100",
        CIFAR100_CLASSES,
        "CIFAR100",
        "cifar-100-python",
        "train",
        "cifar-100-python.tar.gz",
        None,
    ),
}


def load(name: str, root: Path, cache_dir: Path) -> ImageData:
    """CIFAR from torchvision's files (their folder, or the folder around it), or from images in class folders.

    torchvision's files keep their own order, which published index lists refer to; images in folders are ordered by
    class and name.

    Args:
        name: ``cifar10`` or ``cifar100``.

    Raises:
        DataProblem: neither form is there, a file is damaged, or the images are not CIFAR's.
    """
    cifar = _CIFARS[name]
    binary = next((path for path in (root, root / cifar.folder) if (path / cifar.probe).is_file()), None)
    if binary is None:
        found = find_class_folders(root)
        _check_classes(name, cifar, root, found.class_names)
        return decoded_files(name, root, found, _SIDE, cache_dir, cifar.statistics)
    return binary_data(
        name,
        root,
        cifar.class_names,
        cache_dir,
        sorted(binary.iterdir()),
        lambda: _read_binary(cifar, binary),
        cifar.statistics,
    )


def _read_binary(cifar: _Cifar, folder: Path) -> Arrays:
    """Read torchvision's files through torchvision, which compares their MD5 sums before it unpickles them."""
    from torchvision import datasets  # takes seconds to import; needed once per cache

    if folder.name != cifar.folder:
        raise DataProblem(
            f"data.root={folder} holds {cifar.title}'s batches under another name; call it {cifar.folder}"
        )
    reader = getattr(datasets, cifar.reader)
    try:
        splits = {name: reader(str(folder.parent), train=name == "train") for name in ("train", "test")}
    except RuntimeError as error:
        raise DataProblem(
            f"{folder} is incomplete or damaged (its MD5 sums are not {cifar.title}'s); extract {cifar.archive} again"
        ) from error
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, split in splits.items():
        arrays[f"{name}_pixels"] = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
        arrays[f"{name}_labels"] = np.array(split.targets, np.int64)
    return arrays


def _check_classes(name: str, cifar: _Cifar, root: Path, class_names: tuple[str, ...]) -> None:
    for found, wanted, problem in (
        (cifar.class_names, class_names, "no class"),
        (class_names, cifar.class_names, "another class,"),
    ):
        different = sorted(set(found) - set(wanted))
        if different:
            raise DataProblem(
                f"data.root={root} has {problem} {different[0]!r}, and data.name={name} needs {cifar.title}'s "
                f"{len(cifar.class_names)} classes; use data.name=image_folder for other images"
            )
