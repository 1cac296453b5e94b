"""Where images come from: folders, zip files, torchvision's files and the cache; and what is said when they do not."""

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from trainers import data
from trainers.config import Data
from trainers.data import ArrayImages, DataProblem, FileImages, ImageData, cache
from trainers.data.cifar import CIFAR10_CLASSES as CLASS_NAMES


def write_classes(root: Path, *, train: int = 3, test: int = 2, size: int = 32, test_folder: str = "test") -> Path:
    """CIFAR-10's classes with a few images of one colour each: class c, image i has the value 20c + i."""
    for split, count in (("train", train), (test_folder, test)):
        for label, name in enumerate(CLASS_NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (size, size), (20 * label + number,) * 3).save(folder / f"{number:04}.png")
    return root


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(folder.rglob("*.png"), reverse=True):
            file.write(source, prefix + str(source.relative_to(folder)))
    return path


def load(name: str, root: Path, cache_dir: Path) -> ImageData:
    return data.load(Data.model_validate({"name": name, "root": str(root)}), cache_dir)


def pixels_of(images: ImageData) -> np.ndarray:  # type: ignore[type-arg]
    assert isinstance(images.train, ArrayImages)
    return np.array(images.train.pixels)


def problem(name: str, root: Path, cache_dir: Path) -> str:
    with pytest.raises(DataProblem) as caught:
        load(name, root, cache_dir)
    assert "\n" not in caught.value.message
    return caught.value.message


# --- the forms that are read


def test_folder_zip_and_one_folder_down_hold_the_same_images(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data" / "cifar10")
    cache_dir = tmp_path / "cache"
    forms = [
        load("cifar10", folder, cache_dir),
        load("cifar10", tmp_path / "data", cache_dir),
        load("cifar10", zipped(folder, tmp_path / "flat.zip"), cache_dir),
        load("cifar10", zipped(folder, tmp_path / "deep.zip", "cifar10/"), cache_dir),
    ]
    values = [20 * label + number for label in range(10) for number in range(3)]
    for images in forms:
        assert pixels_of(images)[:, 0, 0, 0].tolist() == values
        assert pixels_of(images).shape == (30, 3, 32, 32)
        assert images.train.labels.tolist() == [value // 20 for value in values]
        assert len(images.test) == 20
        assert images.class_names == CLASS_NAMES
    assert len({images.digest for images in forms}) == 1


def test_hidden_files_and_a_macs_extras_are_not_images(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "images")
    path = zipped(folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__MACOSX/train/cat/._0000.png", b"x")
        file.writestr("train/cat/._0000.png", b"x")
    (folder / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    (folder / "train" / "notes.txt").write_text("x")
    for root in (folder, path):
        assert len(load("cifar10", root, tmp_path / "cache").train) == 30


def test_torchvisions_files_are_read_in_their_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    random = np.random.default_rng(0)
    sums, train, labels = {}, [], []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        rows = random.integers(0, 256, (4, 3072), np.uint8)
        content = {"data": rows, "labels": random.integers(0, 10, 4).tolist(), "label_names": list(CLASS_NAMES)}
        (batches / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((batches / name).read_bytes()).hexdigest()
        if name.startswith("data"):
            train.append(rows)
            labels += content["labels"]
    reader = torchvision.datasets.CIFAR10  # its constants are the sums of the real files, which no test can have
    monkeypatch.setattr(reader, "train_list", [[name, sums[name]] for name in sums if name.startswith("data")])
    monkeypatch.setattr(reader, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["batches.meta"]})
    for root in (tmp_path, batches):
        images = load("cifar10", root, tmp_path / "cache")
        assert np.array_equal(pixels_of(images), np.concatenate(train).reshape(20, 3, 32, 32))
        assert images.train.labels.tolist() == labels and len(images.test) == 4


def test_torchvisions_files_with_wrong_sums_are_refused_unread(tmp_path: Path) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    trap = tmp_path / "trap"
    for number in range(1, 6):
        (batches / f"data_batch_{number}").write_bytes(b"cos\nmkdir\n(S'" + str(trap).encode() + b"'\ntR.")
    assert "incomplete or damaged" in problem("cifar10", tmp_path, tmp_path / "cache")
    assert not trap.exists()


def test_image_folders_keep_files_and_prefer_val_to_test(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "images", size=40, test=2, test_folder="val")
    (root / "test").mkdir()
    for path in (root, zipped(root, tmp_path / "images.zip")):
        images = load("image_folder", path, tmp_path / "cache")
        assert isinstance(images.train, FileImages) and len(images.train) == 30 and len(images.test) == 20
        assert images.class_names == CLASS_NAMES
    assert not (tmp_path / "cache").exists()


def test_the_order_of_images_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    forwards, backwards = tmp_path / "a", tmp_path / "b"
    write_classes(forwards, size=8)
    for source in sorted(forwards.rglob("*.png"), reverse=True):
        target = backwards / source.relative_to(forwards)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    one, other = (load("image_folder", root, tmp_path / "cache") for root in (forwards, backwards))
    assert isinstance(one.train, FileImages) and isinstance(other.train, FileImages)
    assert list(one.train.names) == list(other.train.names) and one.digest == other.digest


# --- what is refused


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    for name in ("cifar10", "image_folder"):
        assert problem(name, tmp_path / "nothing", tmp_path) == (
            f"data.root={tmp_path / 'nothing'} does not exist; set it to the folder or zip file that holds the images"
        )


def test_a_root_that_is_a_file_or_a_damaged_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"x")
    assert "is neither a folder nor a zip file" in problem("image_folder", tmp_path / "images.tar", tmp_path)
    (tmp_path / "images.zip").write_bytes(b"x")
    assert f"{tmp_path / 'images.zip'} cannot be read as a zip file" in problem(
        "image_folder", tmp_path / "images.zip", tmp_path
    )


def test_a_root_without_splits_or_with_several_is_explained(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no folder train; expected are train/<class>/" in problem("image_folder", empty, tmp_path)
    for name in ("one", "two"):
        (tmp_path / "many" / name / "train").mkdir(parents=True)
    assert "has 2 folders with one (one, two)" in problem("image_folder", tmp_path / "many", tmp_path)
    assert "has a folder train but neither val nor test" in problem("image_folder", tmp_path / "many" / "one", tmp_path)


def test_a_split_without_images_is_explained(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "images")
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "stray.png")
    message = problem("image_folder", root, tmp_path)
    assert message.startswith(f"{root / 'test'} has no image in a class folder; expected are files such as <class>/1")


@pytest.mark.parametrize(("split", "there"), [("test", "train"), ("train", "test")])
def test_splits_with_different_classes_are_refused(tmp_path: Path, split: str, there: str) -> None:
    root = write_classes(tmp_path / "images")
    shutil.rmtree(root / split / "frog")
    assert problem("image_folder", root, tmp_path) == (
        f"class 'frog' of {root} has images in {there} but none in {split}; both need the same classes"
    )


def test_other_images_are_not_taken_for_cifar10(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "large", size=33)
    assert "0000.png is 33x33 pixels, and data.name=cifar10 needs 32x32" in problem("cifar10", root, tmp_path / "cache")
    for split in ("train", "test"):
        shutil.copytree(root / split / "frog", root / split / "toad")
    assert "has another class, 'toad', and data.name=cifar10" in problem("cifar10", root, tmp_path / "cache")
    for split in ("train", "test"):
        shutil.rmtree(root / split / "frog")
    assert "has no class 'frog', and data.name=cifar10" in problem("cifar10", root, tmp_path / "cache")


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    root = write_classes(tmp_path / "images")
    broken = root / "train" / "ship" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:60] if isinstance(content, str) else content)
    assert problem("cifar10", root, tmp_path / "cache").startswith(f"{broken} (")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_corrupt_member_of_a_zip_is_named(tmp_path: Path) -> None:
    path = zipped(write_classes(tmp_path / "images"), tmp_path / "images.zip")
    content = bytearray(path.read_bytes())
    place = content.index(b"train/ship/0001.png") + 60
    content[place] ^= 0xFF
    path.write_bytes(content)
    assert f"{path}:train/ship/0001.png cannot be read: " in problem("cifar10", path, tmp_path / "cache")


# --- the cache


def test_images_are_decoded_once(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "images")
    first = load("cifar10", root, tmp_path / "cache")
    for path in root.rglob("*.png"):
        size = path.stat().st_size
        path.write_bytes(b"\0" * size)  # the same names and sizes: the cache is not asked again
    again = load("cifar10", root, tmp_path / "cache")
    assert np.array_equal(pixels_of(first), pixels_of(again)) and first.digest == again.digest
    assert isinstance(again.train, ArrayImages) and isinstance(again.train.pixels, np.memmap)


def test_other_files_are_another_entry(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "images")
    first = load("cifar10", root, tmp_path / "cache")
    Image.new("RGB", (32, 32), (255, 0, 7)).save(root / "train" / "airplane" / "9999.png")
    second = load("cifar10", root, tmp_path / "cache")
    assert len(second.train) == len(first.train) + 1 and second.digest != first.digest


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest", "missing"])
def test_a_damaged_entry_is_recognised_and_built_again(tmp_path: Path, damage: str) -> None:
    root = write_classes(tmp_path / "images")
    expected = pixels_of(load("cifar10", root, tmp_path / "cache"))
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    pixels = entry / "train_pixels.npy"
    content = bytearray(pixels.read_bytes())
    match damage:
        case "flip":
            content[-1] ^= 1
            pixels.write_bytes(content)
        case "cut":
            pixels.write_bytes(content[:-100])
        case "manifest":
            (entry / "manifest.json").write_text('{"format": 1')
        case "missing":
            pixels.unlink()
    assert np.array_equal(pixels_of(load("cifar10", root, tmp_path / "cache")), expected)
    assert (entry / "train_pixels.npy").stat().st_size == len(content)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("in the way")
    images = load("cifar10", write_classes(tmp_path / "images"), tmp_path / "cache")
    assert len(images.train) == 30
    assert "decoded again at each start" in caplog.text


def test_an_entry_that_cannot_be_stored_is_not_built_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "numbers").write_text("in the way")
    assert _cached_sum(tmp_path) == 4950
    assert len((tmp_path / "builds").read_text().splitlines()) == 1
    assert "decoded again at each start" in caplog.text
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "cache" / ".numbers.abc.tmp"
    leftover.mkdir(parents=True)
    (leftover / "values.npy").write_bytes(b"half")
    assert _cached_sum(tmp_path) == 4950
    assert not leftover.exists()


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    context = get_context("fork")
    with context.Pool(6) as processes:
        sums = processes.starmap(_cached_sum, [(tmp_path,)] * 6)
    assert sums == [4950] * 6
    assert len((tmp_path / "builds").read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["numbers"]


def _cached_sum(folder: Path) -> int:
    def build() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        with open(folder / "builds", "a") as file:
            file.write(f"{os.getpid()}\n")
        return {"values": np.arange(100)}

    return int(cache.cached(folder / "cache", "numbers", build).arrays["values"].sum())


# --- what training must not wait for


def test_training_imports_neither_torchvision_nor_scikit_learn() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "import trainers.data, trainers.evaluate; from trainers.config import Data\n"
        "trainers.data.load(Data(), Path('unused'))\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'torchvision', 'sklearn', 'sympy', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
