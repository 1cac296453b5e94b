"""Lists of images: ISD's format and plain lines, matched by the ends of their paths. The lists are fabricated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainers.config import Data
from trainers.data import DataProblem, FileImages, ImageData, Subset, digits, training_subset
from trainers.data.archive import Folder
from trainers.data.image_list import ImageList, ListedImage, listed_numbers
from trainers.data.pool import select_pool

WriteList = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> WriteList:
    def write(*lines: str) -> str:
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    return write


def files(num_classes: int = 5, per_class: int = 6, *, base: str = "imagenet/") -> ImageData:
    """Classes n000, n001, …; names alone, since nothing is decoded here."""
    names = [f"n{label:03}" for label in range(num_classes)]

    def split(folder: str, count: int) -> FileImages:
        found = [f"{base}{folder}/{name}/{name}_{number}.JPEG" for name in names for number in range(count)]
        return FileImages(Folder(Path()), found, np.repeat(np.arange(num_classes), count), f"{base}{folder}/")

    train = split("train", per_class)
    return ImageData(
        name="imagenet",
        source="the files",
        digest="0" * 32,
        class_names=tuple(names),
        train=train,
        test=split("val", 2),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        train_files=train,
    )


def isd_list(per_class: dict[str, int]) -> list[str]:
    """The lines of a list in ISD's format, with so many images of each class, the rare classes mixed."""
    images = [f"/train/{name}/{name}_{number}.JPEG" for name, count in per_class.items() for number in range(count)]
    return ["class names : ", *sorted(per_class), "Train Images: ", *reversed(images)]


def selected(images: ImageData, path: str, *, matched: bool = False, **options: object) -> tuple[ImageData, Subset]:
    profile = {"name": "list_file", "path": path, "label": "mine"}
    data = Data.model_validate({"profile": {"name": "balanced", "match": profile} if matched else profile, **options})
    pool = select_pool(data, images)
    return pool, training_subset(data, pool)


def problem(images: ImageData, path: str) -> str:
    with pytest.raises(DataProblem) as caught:
        selected(images, path)
    assert "\n" not in caught.value.message and caught.value.message.startswith((f"{path}", "data.profile"))
    return caught.value.message.removeprefix(path)


def test_isds_format_selects_its_images_and_restricts_classes(write: WriteList) -> None:
    images = files()
    pool, subset = selected(images, write(*isd_list({"n001": 6, "n003": 2, "n004": 2})))
    assert pool.class_names == ("n001", "n003", "n004") and len(pool.test) == 6
    assert subset.class_counts == (6, 2, 2)
    numbers = pool.original_numbers(subset.indices)
    assert isinstance(images.train, FileImages)
    assert [images.train.names[number].rpartition("/")[2] for number in numbers[6:]] == [
        "n003_0.JPEG",
        "n003_1.JPEG",
        "n004_0.JPEG",
        "n004_1.JPEG",
    ]
    assert subset.groups == ("many", "few", "few")


def test_a_list_of_the_size_of_isds_has_eight_large_and_thirty_rare_classes(write: WriteList) -> None:
    images = files(60, 1300)
    large, rare = [f"n{label:03}" for label in range(8)], [f"n{label:03}" for label in range(8, 38)]
    path = write(*isd_list(dict.fromkeys(large, 1300) | dict.fromkeys(rare, 100)))
    pool, subset = selected(images, path)
    assert len(Path(path).read_text().splitlines()) == len(subset) + 40 == 13440
    assert (len(pool.class_names), len(pool.train), len(pool.test)) == (38, 38 * 1300, 76)
    assert (subset.groups.count("many"), subset.groups.count("few")) == (8, 30)
    _, balanced = selected(images, path, matched=True)
    assert len(balanced) == 13400 and set(balanced.class_counts) == {352, 353}
    assert (balanced.groups, balanced.class_names) == (subset.groups, subset.class_names)


@pytest.mark.parametrize(
    "line",
    [
        "train/n002/n002_5.JPEG 2",
        "n002/n002_5.JPEG",
        "/train/n002/n002_5.JPEG",
        "./train/n002/n002_5.JPEG  7",
        "/datasets/ILSVRC2012/train/n002/n002_5.JPEG",
        "imagenet/train/n002/n002_5.JPEG",
    ],
)
@pytest.mark.parametrize("base", ["", "imagenet/"])
def test_paths_are_compared_from_their_end(write: WriteList, line: str, base: str) -> None:
    pool, subset = selected(files(base=base), write(line))
    assert pool.class_names == ("n002",) and pool.original_numbers(subset.indices).tolist() == [17]


def test_the_longest_ending_names_the_file() -> None:
    names = ["train/a/b/1.jpg", "train/b/1.jpg"]
    train = FileImages(Folder(Path()), names, np.array([0, 1]), "train/")
    images = ImageData("image_folder", "it", "0", ("a", "b"), train, train, (0.5,) * 3, (0.5,) * 3, train_files=train)
    path = Path("list.txt")
    for place, listed in enumerate(("x/a/b/1.jpg", "x/b/1.jpg")):
        assert listed_numbers(ImageList(path, None, [ListedImage(1, listed, None)]), images).tolist() == [place]


def test_names_with_spaces_and_labels_are_told_apart(write: WriteList) -> None:
    train = FileImages(Folder(Path()), ["train/a b/1 2.jpg", "train/c/3"], np.array([0, 1]), "train/")
    images = ImageData("image_folder", "it", "0", ("a b", "c"), train, train, (0.5,) * 3, (0.5,) * 3, train_files=train)
    _, subset = selected(images, write("a b/1 2.jpg", "c/3 1"))
    assert subset.indices.tolist() == [0, 1]


def test_plain_lists_have_thirds_of_their_classes_as_groups_or_shots(write: WriteList) -> None:
    lines = [
        f"train/n{label:03}/n{label:03}_{number}.JPEG {label}" for label in range(3) for number in range(3 - label)
    ]
    _, subset = selected(files(), write(*lines))
    assert subset.class_counts == (3, 2, 1) and subset.groups == ("many", "medium", "few")
    _, shots = selected(files(), write(*lines), groups="shots")
    assert shots.groups == ("few", "few", "few")


def test_the_order_of_the_lines_does_not_matter(write: WriteList) -> None:
    lines = [f"n00{label}/n00{label}_{number}.JPEG" for label in range(2) for number in range(3)]
    digests = [selected(files(), write(*order))[1].digest for order in (lines, lines[::-1])]
    assert digests[0] == digests[1] == "28f06fe3e804b335001a84ddf79974c9"


# --- what is refused


def test_missing_files_are_counted_and_the_first_named(write: WriteList) -> None:
    path = write("n001/n001_0.JPEG", "/train/n001/n001_77.JPEG", "n001_1.JPEG")
    assert problem(files(), path) == (
        ":2: /train/n001/n001_77.JPEG is not among the training images of the files (2 of 3 are missing)"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["n001/n001_0.JPEG", "n002/n002_0.JPEG", "/train/n001/n001_0.JPEG"],
            ":3: /train/n001/n001_0.JPEG is in line 1 already; remove one",
        ),
        (
            ["n001/n001_0.JPEG 4", "n001/n001_1.JPEG 5"],
            ":2: class 'n001' has label 5 here and 4 in line 1",
        ),
        (
            ["class names :", "n001", "n002", "Train Images:", "/train/n001/n001_0.JPEG"],
            ":3: class 'n002' has no image in the list",
        ),
        (
            ["class names :", "n001", "Train Images:", "/train/n001/n001_0.JPEG", "/train/n002/n002_0.JPEG"],
            ":5: /train/n002/n002_0.JPEG is of class 'n002', which the list does not name above 'Train Images:'",
        ),
        (["class names :", "n001"], " begins with 'class names :' and has no line 'Train Images:'"),
        (["", " "], " names no image; write one path a line, such as train/<class>/<file>"),
        (
            ["class names :", "n001", "Train Images:"],
            " names no image; write one path a line, such as train/<class>/<file>",
        ),
    ],
)
def test_lists_that_contradict_themselves_are_refused(write: WriteList, lines: list[str], message: str) -> None:
    assert problem(files(), write(*lines)) == message


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.txt")
    assert problem(files(), path) == f"data.profile.path={path} cannot be read: No such file or directory"


def test_data_sets_without_files_have_no_lists(write: WriteList) -> None:
    assert problem(digits.load(), write("0/0.png")) == (
        "data.profile=list_file names files, and data.name=digits at scikit-learn's digits has none; use a copy in "
        "class folders"
    )
