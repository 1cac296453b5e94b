"""``dataset.json``: what it says, where long lists go, and that a run does not go on with other images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainers.config import Data
from trainers.data import (
    ArrayImages,
    DataProblem,
    ImageData,
    check_same_data,
    dataset_record,
    digits,
    training_subset,
    write_dataset_record,
)
from trainers.data.pool import select_pool
from trainers.rundir import RunDir

LONG_TAILED = {"name": "long_tailed", "imbalance": 10}


def record(images: ImageData | None = None, **options: object) -> dict[str, object]:
    data = Data.model_validate({"profile": LONG_TAILED, **options})
    pool = select_pool(data, images or digits.load())
    return dataset_record(data, pool, training_subset(data, pool))


def many_images(count: int) -> ImageData:
    labels = np.arange(count) % 2
    images = ArrayImages(np.zeros((count, 3, 1, 1), np.uint8), labels)
    return ImageData("cifar10", "many", "0" * 32, ("a", "b"), images, images, (0.5,) * 3, (0.5,) * 3)


def numbers(ranges: str) -> list[int]:
    parts = [part.split("-") for part in ranges.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


def test_images_are_named_by_their_numbers_in_the_whole_data_set(tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    classes.write_text("3\n5\n8\n")
    images = digits.load()
    found = record(class_list=str(classes), label="three", holdout_per_class=7)
    trained, held_out = numbers(str(found["indices"])), numbers(str(found["held_out"]))
    assert len(trained) == found["num_train"] and len(held_out) == 21
    assert set(trained).isdisjoint(held_out)
    assert set(images.train.labels[trained]) == {3, 5, 8} == set(images.train.labels[held_out])
    counts = {name: int((images.train.labels[trained] == int(name)).sum()) for name in "358"}
    assert found["class_counts"] == counts and found["num_test"] == 150


def test_the_histogram_has_a_digest_of_its_own() -> None:
    one, other = record(), record(profile={"name": "long_tailed", "imbalance": 11})
    again = record(split_seed=5)
    assert one["class_counts_digest"] == again["class_counts_digest"] != other["class_counts_digest"]
    assert one["indices_digest"] != again["indices_digest"]


def test_short_lists_stay_in_the_record_and_long_ones_get_a_file(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    short = record()
    write_dataset_record(run_dir, short)
    assert json.loads(run_dir.dataset_path.read_text()) == short and not run_dir.indices_path.exists()

    images = many_images(60_000)
    long = record(images, profile={"name": "balanced", "size": 30_000})
    write_dataset_record(run_dir, long)
    written = json.loads(run_dir.dataset_path.read_text())
    assert written["indices"] is None and written["indices_file"] == "indices.txt"
    data = Data.model_validate({"profile": {"name": "balanced", "size": 30_000}})
    assert numbers(run_dir.indices_path.read_text().strip()) == training_subset(data, images).indices.tolist()


def test_all_images_are_one_range_however_many(tmp_path: Path) -> None:
    assert record(many_images(300_000), profile={"name": "full"})["indices"] == "0-299999"


def test_a_run_goes_on_with_the_same_images_grouped_in_another_way(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    check_same_data(run_dir, record())
    write_dataset_record(run_dir, record())
    check_same_data(run_dir, record())
    assert record(groups="shots")["groups"] != record()["groups"]
    check_same_data(run_dir, record(groups="shots"))


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    begun = record()
    write_dataset_record(run_dir, begun)
    for now, what in (
        (record(split_seed=1), "another selection of training images"),
        (record(replace(digits.load(), digest="f" * 32)), "other images"),
    ):
        with pytest.raises(DataProblem) as caught:
            check_same_data(run_dir, now)
        assert caught.value.message == (
            f"{run_dir.dataset_path}: the run began with {what} (digest {begun['digest']}, 503 images; now "
            f"{now['digest']}, 503); bring the former data back, or remove the run's folder to begin again"
        )


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.dataset_path.write_text("{")
    with pytest.raises(DataProblem, match=r"dataset\.json: damaged JSON"):
        check_same_data(run_dir, record())
