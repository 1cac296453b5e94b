"""``python -m trainers.data``: what would stop a run is said before it starts, with the option to change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trainers.config import Data
from trainers.data import DataProblem, dataset_record, load, training_subset
from trainers.data.__main__ import check


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes with four training images and one test image each."""
    root = tmp_path / "images"
    for split, count in (("train", 4), ("val", 1)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4)).save(root / split / name / f"{number}.png")
    return root


def folder(root: Path, **options: object) -> dict[str, object]:
    return {"name": "image_folder", "root": str(root), **options}


@pytest.mark.parametrize("damaged", ["train/a/2.png", "val/b/0.png"])
def test_images_that_are_decoded_when_needed_are_tried(images: Path, tmp_path: Path, damaged: str) -> None:
    data = Data.model_validate(folder(images))
    check(data, tmp_path)
    (images / damaged).write_bytes(b"\x89PNG")
    with pytest.raises(DataProblem) as caught:
        check(data, tmp_path)
    assert str(caught.value).startswith(f"{images / damaged} (4 bytes) cannot be decoded: it is no image")


def test_images_that_the_profile_leaves_out_are_not_tried(images: Path, tmp_path: Path) -> None:
    (images / "train" / "a" / "2.png").write_bytes(b"")
    (tmp_path / "list").write_text("a/0.png\nb/0.png\n")
    profile = {"name": "list_file", "path": str(tmp_path / "list"), "label": "two"}
    check(Data.model_validate(folder(images, profile=profile)), tmp_path)


def test_the_first_section_that_cannot_work_is_answered(images: Path, tmp_path: Path) -> None:
    sections = [{}, folder(images), folder(images, profile={"name": "balanced", "size": 20}), folder(images / "no")]
    done = subprocess.run(
        [sys.executable, "-m", "trainers.data", str(tmp_path / "cache")],
        input=json.dumps([Data.model_validate(section).model_dump(mode="json") for section in sections]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout) == {
        "number": 2,
        "problem": f"data.profile asks for 10 training images of class 'a', and {images} has 4; lower "
        "data.profile.size (now 20)",
        "option": "data.profile.size",
    }


def test_the_digests_are_those_of_the_runs(images: Path, tmp_path: Path) -> None:
    data = [Data.model_validate(section) for section in ({}, folder(images))]
    done = subprocess.run(
        [sys.executable, "-m", "trainers.data", str(tmp_path / "cache")],
        input=json.dumps([section.model_dump(mode="json") for section in data]),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = [(section, load(section, tmp_path / "cache")) for section in data]
    expected = [dataset_record(section, found, training_subset(section, found))["digest"] for section, found in loaded]
    assert json.loads(done.stdout) == expected
