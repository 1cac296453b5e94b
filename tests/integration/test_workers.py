"""Processes that load data: they change no number, do not mind signals, and leave with their rank."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from trainers.rundir import StopReason


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small noisy images as files."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        for label in ("dark", "light"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 128, (12, 10, 3)) + (128 if label == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def changes(images: Path, workers: int, epochs: int) -> dict[str, Any]:
    return {
        "data": {"name": "image_folder", "root": str(images), "image_size": 8},
        "evaluate.knn": {"k": 5, "bank": "train"},
        "runtime.workers": workers,
        "train.epochs": epochs,
        "runtime.log_every_steps": 1,
    }


def test_loading_in_a_process_of_its_own_changes_nothing(
    launch: Any, make_run: Any, numbers_of: Any, undisturbed: Any, images: Path
) -> None:
    here, there = make_run("here", changes(images, 0, epochs=15)), make_run("there", changes(images, 2, epochs=15))
    undisturbed(here)

    launched = launch(there, "first")
    launched.wait_until(lambda: launched.last_step() > 3)
    (rank,) = launched.ranks()
    workers = rank.children()
    assert len(workers) == 2
    for process in (*workers, rank, launched.agent(), psutil.Process(launched.process.pid)):
        process.send_signal(signal.SIGTERM)
    assert launched.wait() == 75
    launched.assert_nothing_is_left()
    assert launch(there, "second").wait() == 0

    assert numbers_of(there) == numbers_of(here)


def test_workers_do_not_outlive_a_killed_rank(launch: Any, make_run: Any, images: Path) -> None:
    launched = launch(make_run("killed", changes(images, 2, epochs=150)), "token")
    launched.wait_until(lambda: launched.last_step() > 3)
    (rank,) = launched.ranks()

    rank.kill()

    assert launched.wait() == 1
    launched.assert_nothing_is_left(timeout_s=3)


def test_a_damaged_image_that_one_rank_meets_is_everybodys_reason(
    launch: Any, make_run: Any, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(images, root)
    damaged = root / "train" / "light" / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    unevaluated = {"evaluate.knn": None, "evaluate.untrained": False}
    run_dir = make_run("damaged", {**changes(root, 0, epochs=50), **unevaluated})

    assert launch(run_dir, "token", "--processes=2").wait() == 1

    status, record = run_dir.read_status(), run_dir.read_attempt(1)
    assert status is not None and status.reason is StopReason.DATA and record is not None
    assert str(damaged) in status.message
    assert record.detail == f"data: {status.message}"


def test_a_run_does_not_go_on_when_its_images_have_changed(
    launch: Any, make_run: Any, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "changed"
    shutil.copytree(images, root)
    run_dir = make_run("changed", changes(root, 0, epochs=150))
    launched = launch(run_dir, "first")
    launched.wait_until(lambda: launched.last_step() > 3)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.wait() == 75
    (root / "train" / "light" / "7.png").rename(root / "train" / "light" / "70.png")

    assert launch(run_dir, "second").wait() == 1

    status = run_dir.read_status()
    assert status is not None and status.reason is StopReason.DATA
    assert status.message.startswith(f"{run_dir.dataset_path}: the run began with other images (digest ")
