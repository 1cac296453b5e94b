"""Data sets as their authors publish them. The files here are fabricated in those layouts; no image is real."""

import hashlib
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from trainers import data
from trainers.config import Data
from trainers.data import ArrayImages, DataProblem, FileImages, ImageData, load_named
from trainers.data.cifar import CIFAR100_CLASSES
from trainers.data.decoded import channel_statistics
from trainers.data.imagenet import imagenet100_classes

ImageArray = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_image(path: Path, value: int = 0, size: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value,) * 3).save(path)


def pixels(images: ImageData) -> ImageArray:
    assert isinstance(images.train, ArrayImages)
    return np.array(images.train.pixels)


def problem(name: str, root: Path, cache_dir: Path, **options: object) -> str:
    with pytest.raises(DataProblem) as caught:
        data.load(Data.model_validate({"name": name, "root": str(root), **options}), cache_dir)
    assert "\n" not in caught.value.message
    return caught.value.message


# --- CIFAR-100


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's layout with six training images; its constants are the sums of the real files."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random, sums = np.random.default_rng(0), {}
    for name, count in (("train", 6), ("test", 2)):
        rows = random.integers(0, 256, (count, 3072), np.uint8)
        content = {"data": rows, "fine_labels": list(range(count)), "coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CIFAR100_CLASSES)}))
    sums = {name: md5(folder / name) for name in ("train", "test", "meta")}
    reader = torchvision.datasets.CIFAR100
    monkeypatch.setattr(reader, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["meta"]})
    return folder


def test_cifar100_is_read_from_torchvisions_files(cifar100: Path, tmp_path: Path) -> None:
    rows = pickle.loads((cifar100 / "train").read_bytes())["data"]
    for root in (cifar100, cifar100.parent):
        images = load_named("cifar100", root, tmp_path / "cache")
        assert np.array_equal(pixels(images), rows.reshape(6, 3, 32, 32))
        assert images.train.labels.tolist() == list(range(6)) and len(images.test) == 2
        assert images.class_names == CIFAR100_CLASSES and images.train_files is None
        expected = rows.reshape(6, 3, 1024).transpose(1, 0, 2).reshape(3, -1) / 255
        assert np.allclose(images.mean, expected.mean(1), atol=5e-5)
        assert np.allclose(images.std, expected.std(1), atol=5e-5)


def test_damaged_cifar100_is_refused(cifar100: Path, tmp_path: Path) -> None:
    (cifar100 / "test").write_bytes(b"x")
    assert problem("cifar100", tmp_path, tmp_path / "cache") == (
        f"{cifar100} is incomplete or damaged (its MD5 sums are not CIFAR-100's); extract cifar-100-python.tar.gz again"
    )


def test_the_classes_of_cifar100_are_its_own() -> None:
    assert len(set(CIFAR100_CLASSES)) == 100 and list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    assert (CIFAR100_CLASSES[0], CIFAR100_CLASSES[90], CIFAR100_CLASSES[99]) == ("apple", "train", "worm")


def test_cifar100_in_class_folders_may_have_a_class_called_train(tmp_path: Path) -> None:
    root = tmp_path / "cifar100"
    for name in CIFAR100_CLASSES:
        for split in ("train", "test"):
            write_image(root / split / name / "0.png", size=32)
    assert len(load_named("cifar100", tmp_path, tmp_path / "cache").train) == 100
    shutil.rmtree(root / "train" / "worm")
    shutil.rmtree(root / "test" / "worm")
    assert f"data.root={root} has no class 'worm', and data.name=cifar100" in problem("cifar100", root, tmp_path / "c")


def test_statistics_are_counted_exactly_and_of_the_chosen_images_only() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2500, 3, 4, 4), np.uint8)
    chosen = np.arange(0, 2500, 2)
    values = images[chosen].transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert channel_statistics(images, chosen).tolist() == [
        np.round(values.mean(1), 4).tolist(),
        np.round(values.std(1), 4).tolist(),
    ]


# --- STL-10


@pytest.fixture
def stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authors' layout, columns first, with ten labelled, five unlabelled and four test images."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 10), ("unlabeled", 5), ("test", 4)):
        (folder / f"{name}_X.bin").write_bytes(random.integers(0, 256, (count, 3, 96, 96), np.uint8).tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(bytes(range(1, count + 1)))
    for name in ("train_list", "test_list"):
        files = [file for file, _ in getattr(torchvision.datasets.STL10, name)]
        monkeypatch.setattr(torchvision.datasets.STL10, name, [[file, md5(folder / file)] for file in files])
    return folder


def test_stl10_is_read_from_its_binary_files(stl10: Path, tmp_path: Path) -> None:
    stored = np.frombuffer((stl10 / "train_X.bin").read_bytes(), np.uint8).reshape(10, 3, 96, 96)
    for root in (stl10, stl10.parent):
        images = load_named("stl10", root, tmp_path / "cache")
        assert np.array_equal(pixels(images), stored.transpose(0, 1, 3, 2))
        assert images.train.labels.tolist() == list(range(10)) and images.test.labels.tolist() == [0, 1, 2, 3]
        assert images.class_names[0] == "airplane" and len(images.class_names) == 10


def test_unlabelled_images_follow_the_labelled_ones(stl10: Path, tmp_path: Path) -> None:
    options = {"name": "stl10", "root": str(stl10), "profile": {"name": "full"}}
    labelled = data.load(Data.model_validate(options), tmp_path / "cache")
    wanted = Data.model_validate({**options, "unlabelled": True})
    images = data.load(wanted, tmp_path / "cache")
    assert images.train.labels.tolist() == [*range(10), -1, -1, -1, -1, -1]
    assert np.array_equal(pixels(images)[:10], pixels(labelled)) and images.digest != labelled.digest
    assert (images.mean, images.std) == (labelled.mean, labelled.std)
    subset = data.training_subset(wanted, images)
    assert len(subset) == 15 and subset.class_counts == (1,) * 10


def test_stl10_with_missing_or_damaged_files_is_refused(stl10: Path, tmp_path: Path) -> None:
    assert problem("stl10", tmp_path / "nothing", tmp_path / "c") == (
        f"data.root={tmp_path / 'nothing'} does not exist; set it to the folder that holds stl10_binary"
    )
    (stl10 / "test_y.bin").write_bytes(b"\1\2\3\5")
    assert f"{stl10} is incomplete or damaged (its MD5 sums are not STL-10's)" in problem(
        "stl10", stl10, tmp_path / "c"
    )
    (stl10 / "test_y.bin").unlink()
    assert problem("stl10", stl10, tmp_path / "c") == f"{stl10} has no test_y.bin; extract stl10_binary.tar.gz again"
    (stl10 / "train_X.bin").unlink()
    assert f"data.root={stl10} has no stl10_binary/train_X.bin" in problem("stl10", stl10, tmp_path / "c")


# --- Tiny-ImageNet

TINY_CLASSES = ("n01443537", "n01629819")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The published layout with two classes: three training images each, and three validation images."""
    root = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(TINY_CLASSES):
        for number in range(3):
            write_image(root / "train" / name / "images" / f"{name}_{number}.JPEG", 100 * label + number, size=64)
        (root / "train" / name / f"{name}_boxes.txt").write_text("x")
    for number in range(3):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", size=64)
    lines = [f"val_{number}.JPEG\t{TINY_CLASSES[number % 2]}\t0\t32\t44\t62\n" for number in range(3)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    write_image(root / "test" / "images" / "test_0.JPEG", size=64)
    return root


def test_tiny_imagenets_validation_images_have_the_annotated_classes(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w") as file:
        for source in tiny.rglob("*.*"):
            file.write(source, source.relative_to(tiny.parent))
    for root in (tiny, path):
        images = load_named("tiny_imagenet", root, tmp_path / "cache")
        assert pixels(images).shape == (6, 3, 64, 64)
        assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and images.class_names == TINY_CLASSES
        assert images.test.labels.tolist() == [0, 0, 1]  # val_0 and val_2, then val_1


def test_tiny_imagenet_sorted_into_class_folders_is_read_too(tiny: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny / "val")
    for name in TINY_CLASSES:
        write_image(tiny / "val" / name / "val_0.JPEG", size=64)
    assert load_named("tiny_imagenet", tiny, tmp_path / "cache").test.labels.tolist() == [0, 1]


def test_annotations_that_do_not_fit_the_images_are_refused(tiny: Path, tmp_path: Path) -> None:
    annotations = tiny / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    annotations.write_text(whole + f"val_9.JPEG\t{TINY_CLASSES[0]}\n")
    assert "has no 'val_9.JPEG', which val_annotations.txt names" in problem("tiny_imagenet", tiny, tmp_path / "c")
    annotations.write_text("".join(whole.splitlines(keepends=True)[1:]))
    missing = tiny / "val" / "images" / "val_0.JPEG"
    assert f"{missing} has no line in val_annotations.txt" in problem("tiny_imagenet", tiny, tmp_path / "c")
    annotations.write_text(whole + "oops\n")
    assert f"{annotations}:4: 'oops' is not '<file> <class> …'" in problem("tiny_imagenet", tiny, tmp_path / "c")
    annotations.unlink()
    assert f"{annotations} cannot be read" in problem("tiny_imagenet", tiny, tmp_path / "c")


# --- ImageNet

HUNDRED = imagenet100_classes()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand class folders, the hundred of ImageNet-100 among them, with an image in train and one in val each."""
    root = tmp_path_factory.mktemp("imagenet")
    image = root / "image.JPEG"
    write_image(image)
    others = [f"n{number:08}" for number in range(90_000_000, 90_000_900)]
    for name in (*HUNDRED, *others):
        for split in ("train", "val"):
            folder = root / split / name
            folder.mkdir(parents=True)
            (folder / f"{name}_1.JPEG").hardlink_to(image)
    return root


def test_imagenet_is_its_thousand_classes_as_files(imagenet: Path, tmp_path: Path) -> None:
    images = load_named("imagenet", imagenet, tmp_path / "cache")
    assert isinstance(images.train, FileImages) and images.train_files is images.train
    assert (len(images.class_names), len(images.train), len(images.test)) == (1000, 1000, 1000)
    assert list(images.class_names) == sorted(images.class_names)
    assert not (tmp_path / "cache").exists()


def test_imagenet100_leaves_the_other_classes_unread(imagenet: Path, tmp_path: Path) -> None:
    images = load_named("imagenet100", imagenet, tmp_path / "cache")
    assert images.class_names == tuple(sorted(HUNDRED)) and len(images.train) == len(images.test) == 100
    assert isinstance(images.train, FileImages)
    assert all(name.split("/")[1] in HUNDRED for name in images.train.names)


def test_the_classes_of_imagenet100_are_a_hundred_with_those_that_we_know() -> None:
    """Two members that SDCLR's long-tailed list names: its largest class and its smallest."""
    assert len(set(HUNDRED)) == 100 and {"n02116738", "n02483362"} <= set(HUNDRED)
    assert all(name[0] == "n" and name[1:].isdecimal() and len(name) == 9 for name in HUNDRED)


def test_a_part_of_imagenet_is_not_taken_for_all_of_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / HUNDRED[0] / "1.JPEG")
    assert "has 1 folders in train, and data.name=imagenet needs ImageNet's 1000 classes" in problem(
        "imagenet", tmp_path, tmp_path
    )
    assert problem("imagenet100", tmp_path, tmp_path) == (
        f"data.root={tmp_path} has no class {min(HUNDRED[1:])!r} in train, and data.name=imagenet100 needs the classes "
        "of imagenet100.txt (99 are missing)"
    )


@pytest.mark.parametrize("name", ["imagenet", "imagenet100"])
def test_flat_validation_images_are_refused_with_the_way_to_sort_them(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "train" / HUNDRED[0] / "1.JPEG")
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    message = problem(name, tmp_path, tmp_path)
    assert message.startswith(f"{tmp_path / 'val'} holds images without class folders; sort them into val/<wnid>/")


def test_class_lists_restrict_files_too(imagenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("\n".join(HUNDRED[:2]))
    wanted = {"name": "imagenet", "root": str(imagenet), "class_list": str(path), "label": "two"}
    images = data.load(Data.model_validate(wanted), tmp_path / "cache")
    assert images.class_names == tuple(sorted(HUNDRED[:2])) and len(images.train) == len(images.test) == 2
    assert images.train_files is images.train
