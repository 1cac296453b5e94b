"""The figures of one run: all that its directory has the numbers for, and no more."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.figures import run_figures
from orchestrator.figures.confusion import in_blocks, row_shares
from tests.unit.orchestrator.figures.fabricated import Fabricated

pytestmark = pytest.mark.filterwarnings("error")
CLASSES_100 = [f"class {place}" for place in range(100)]


def test_all_that_there_are_numbers_for(tmp_path: Path) -> None:
    run_dir = Fabricated(has_evidence=True).write(tmp_path / "run")
    figures = run_figures(run_dir, "isd · long_tailed · seed=0")
    assert set(figures) == {
        "loss.png",
        "layers_knn.png",
        "layers_knn_teacher.png",
        "class_histogram.png",
        "confusion_knn.png",
        "confusion_knn_teacher.png",
        "embedding.png",
    }
    for data in figures.values():
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_figures_may_be_asked_for_from_several_threads(tmp_path: Path) -> None:
    run_dirs = [Fabricated(blocks=0, level=level).write(tmp_path / f"{level}") for level in (20.0, 40.0, 60.0, 80.0)]
    one_by_one = [run_figures(run_dir, "isd") for run_dir in run_dirs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda run_dir: run_figures(run_dir, "isd"), run_dirs)) == one_by_one


def test_a_run_without_evidence_and_blocks_has_less(tmp_path: Path) -> None:
    finished = Fabricated(blocks=0).write(tmp_path / "finished")
    assert set(run_figures(finished, "isd")) == {"loss.png", "class_histogram.png"}
    working = Fabricated(is_finished=False).write(tmp_path / "working")
    assert set(run_figures(working, "isd")) == {"loss.png"}


@pytest.mark.parametrize("classes", [["a", "b"], [f"class {place}" for place in range(20)], CLASSES_100])
def test_any_number_of_classes(tmp_path: Path, classes: list[str]) -> None:
    figures = run_figures(Fabricated(classes=classes, blocks=0, has_evidence=True).write(tmp_path / "run"), "isd")
    assert {"confusion_knn.png", "embedding.png", "class_histogram.png"} <= set(figures)
    assert all(len(data) < 150_000 for data in figures.values())


@pytest.mark.parametrize("path", ["evaluation/confusion_knn.npz", "evaluation/embedding.npz"])
@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "text", "other arrays"])
def test_a_damaged_file_is_named(tmp_path: Path, path: str, content: bytes | None) -> None:
    run_dir = Fabricated(has_evidence=True, blocks=0).write(tmp_path / "run")
    if content is None:
        np.savez(run_dir.path / path, other=np.zeros(1))
    else:
        (run_dir.path / path).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(path)):
        run_figures(run_dir, "isd")


def test_a_confusion_in_blocks_keeps_every_image() -> None:
    matrix = np.arange(25).reshape(5, 5)
    blocks = in_blocks(matrix, 2)
    assert blocks.tolist() == [[12, 20, 13], [52, 60, 33], [41, 45, 24]]
    assert blocks.sum() == matrix.sum()
    assert in_blocks(matrix, 1).tolist() == matrix.tolist()


def test_shares_of_a_class_without_images_are_unknown() -> None:
    np.testing.assert_array_equal(row_shares(np.array([[1, 3], [0, 0]])), [[0.25, 0.75], [np.nan, np.nan]])
