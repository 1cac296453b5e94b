"""What an evaluation leaves beside its numbers: confusion matrices, and test images in the plane."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch

from trainers.config import Embedding
from trainers.data import digits
from trainers.evaluate import Sample, embed
from trainers.evaluate.accuracy import confusion_matrix, measure_accuracy
from trainers.failure import ConfigProblem
from trainers.journal import Journal, StatusFile
from trainers.rundir import RunDir
from trainers.train import carry_out

MakeRun = Callable[..., RunDir]

ALL_METHODS = pytest.mark.parametrize("method", ["tsne", "umap"])


def carried_out(run_dir: RunDir) -> RunDir:
    journal = Journal(StatusFile(run_dir.status_path, 1))
    carry_out(run_dir, journal, 1, lambda: False)
    journal.close()
    return run_dir


def arrays(path: Any) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_a_confusion_matrix_has_the_truth_in_its_rows() -> None:
    matrix = confusion_matrix(torch.tensor([0, 2, 2, 1]), torch.tensor([0, 0, 2, 2]), 3)
    assert matrix is not None and matrix.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    names = [str(number) for number in range(1001)]
    assert measure_accuracy(torch.tensor([0]), torch.tensor([0]), names, None).confusion is None


def test_every_accuracy_by_class_has_its_confusion_matrix(make_run: MakeRun) -> None:
    evaluate = {
        "knn": {"k": [5, 1]},
        "linear": {"epochs": 1},
        "transfer": [{"name": "digits", "label": "other/one", "knn": {"k": 3}, "linear": None}],
    }
    run_dir = carried_out(make_run("confused", {"evaluate": evaluate, "train.epochs": 1}))
    result = run_dir.read_result()
    assert result is not None
    assert {path.name for path in run_dir.evaluation_dir.iterdir()} == {
        f"confusion_{protocol.replace('/', '_')}.npz" for protocol in result.per_class
    }
    assert {"knn", "knn_k1", "knn_teacher", "linear", "transfer_other/one_knn"} <= set(result.per_class)
    for protocol, per_class in result.per_class.items():
        found = arrays(run_dir.confusion_path(protocol))
        matrix, classes = found["matrix"], found["classes"].tolist()
        assert matrix.dtype == np.int64 and matrix.sum() == len(digits.load().test)
        of_the_diagonal = dict(zip(classes, 100 * matrix.diagonal() / matrix.sum(1), strict=True))
        assert of_the_diagonal == pytest.approx(per_class, rel=1e-12)


def test_an_embedding_is_of_the_papers_network_and_the_same_every_time(make_run: MakeRun) -> None:
    changes = {"evaluate.embedding": {"images": 60, "perplexity": 5.0}, "train.epochs": 1}
    first, second = (carried_out(make_run(name, changes)) for name in ("first", "second"))
    found = arrays(first.embedding_path)
    assert found["points"].shape == (60, 2) and found["points"].dtype == np.float32
    assert np.isfinite(found["points"]).all() and found["points"].std() > 0
    assert found["labels"].dtype == np.int64 and found["classes"][found["labels"]].shape == (60,)
    assert found["method"].item() == "tsne"
    assert first.embedding_path.read_bytes() == second.embedding_path.read_bytes()
    result = first.read_result()
    assert result is not None and "embedding" in result.protocols
    assert not any("embedding" in name for name in result.metrics), "a picture is no metric"


@ALL_METHODS
def test_images_of_a_class_lie_together(method: Literal["tsne", "umap"]) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    centres = np.eye(3, 16)[labels]
    features = (centres + 0.05 * generator.standard_normal((90, 16))).astype(np.float32)
    embedding = Embedding(method=method, perplexity=10.0)
    places = embed(Sample(features, labels), embedding, seed=2**62)
    assert np.array_equal(places, embed(Sample(features, labels), embedding, seed=2**62))
    nearest = [np.argsort(((places - place) ** 2).sum(1))[1] for place in places]
    assert (labels[nearest] == labels).mean() == 1.0


@ALL_METHODS
@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_very_few_images_can_be_shown(count: int, method: Literal["tsne", "umap"]) -> None:
    features = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    assert embed(Sample(features, np.zeros(count, np.int64)), Embedding(method=method), seed=0).shape == (count, 2)


def test_a_package_that_is_missing_is_named_before_anything_is_trained(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    run_dir = make_run("without", {"evaluate.embedding": {"method": "umap"}})
    with pytest.raises(ConfigProblem, match="needs the package umap-learn, which is not installed"):
        carried_out(run_dir)
    assert not run_dir.metrics_path.exists()
