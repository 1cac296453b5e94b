"""k-NN evaluation, against numbers that can be checked on paper and a slow second implementation."""

import math
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.config import KNN, Data, Evaluate
from trainers.data import ArrayImages, ImageData, digits, training_subset
from trainers.evaluate import evaluate_knn, knn_predict
from trainers.evaluate.features import features, image_features

CPU = torch.device("cpu")
DEGREE = math.pi / 180


def directions(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    return torch.tensor([[math.cos(angle * DEGREE), math.sin(angle * DEGREE)] for angle in degrees])


def predict(bank: Tensor, labels: list[int], queries: Tensor, k: int, **options: object) -> list[int]:
    arguments = {"temperature": 0.07, "weighted": True, "num_classes": max(labels) + 1, **options}
    return knn_predict(bank, torch.tensor(labels), queries, k=k, **arguments).tolist()  # type: ignore[arg-type]


BANK = directions(0, 20, 25, 90)


def test_the_nearest_neighbour_decides_alone() -> None:
    assert predict(BANK, [0, 1, 1, 2], directions(5, 13, 60, 100), k=1) == [0, 1, 2, 2]


def test_a_majority_outvotes_a_nearer_neighbour_when_votes_are_equal() -> None:
    assert predict(BANK, [0, 1, 1, 2], directions(5), k=3, weighted=False) == [1]


def test_weights_fall_with_distance_as_the_temperature_says() -> None:
    """At 5 degrees the cosines are .99619, .96593 and .93969. Two votes beat one unless T is below about .064."""
    assert predict(BANK, [0, 1, 1, 2], directions(5), k=3, temperature=1.0) == [1]
    assert predict(BANK, [0, 1, 1, 2], directions(5), k=3, temperature=0.05) == [0]


def test_equal_votes_go_to_the_class_with_the_nearest_member() -> None:
    bank = directions(10, -20, 30, -40, 90)
    labels = [2, 0, 2, 0, 1]
    assert predict(bank, labels, directions(0), k=4, weighted=False) == [2]
    assert predict(bank, labels, directions(-10.5), k=4, weighted=False) == [0]
    assert predict(bank, labels, directions(0), k=5, weighted=False) == [2]


def test_lengths_of_vectors_do_not_matter() -> None:
    lengths = torch.tensor([[100.0], [0.01], [1.0], [7.0]])
    assert predict(BANK * lengths, [0, 1, 1, 2], directions(5, 60) * 9, k=1) == [0, 2]


def test_a_bank_smaller_than_k_votes_whole() -> None:
    assert predict(BANK, [0, 1, 1, 0], directions(0), k=200, weighted=False) == [0]


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert predict(BANK, [0, 1, 1, 2], directions(5, 100), k=4, temperature=1e-4) == [0, 2]


def test_chunks_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(60, 5, generator=generator), torch.randn(33, 5, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator).tolist()
    results = [predict(bank, labels, queries, k=7, chunk=chunk) for chunk in (1, 10, 33, 500)]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 5, 20, 100])
def test_predictions_match_a_slow_second_implementation(weighted: bool, k: int) -> None:
    random = np.random.default_rng(k)
    bank, queries = random.normal(size=(80, 6)), random.normal(size=(50, 6))
    labels = random.integers(0, 5, 80)
    expected = [_slow_knn(bank, labels, query, k, weighted) for query in queries]
    result = predict(torch.tensor(bank), labels.tolist(), torch.tensor(queries), k=k, weighted=weighted)
    assert result == expected


def _slow_knn(bank, labels, query, k: int, weighted: bool) -> int:  # type: ignore[no-untyped-def]
    cosines = sorted(
        ((float(row @ query / math.sqrt(row @ row) / math.sqrt(query @ query)), int(label))
         for row, label in zip(bank, labels, strict=True)),
        reverse=True,
    )[:k]  # fmt: skip
    votes: dict[int, float] = {}
    for cosine, label in cosines:
        votes[label] = votes.get(label, 0.0) + (math.exp(cosine / 0.07) if weighted else 1.0)
    best = max(votes.values())
    return next(label for _, label in cosines if math.isclose(votes[label], best, rel_tol=1e-12))


# --- the whole evaluation


def same_train_and_test(images: ImageData) -> ImageData:
    return ImageData(
        images.name, images.source, images.digest, images.class_names, images.test, images.test, images.mean, images.std
    )


def test_an_image_that_is_its_own_neighbour_is_always_right() -> None:
    images = same_train_and_test(digits.load())
    subset = training_subset(Data(), images)
    results = evaluate_knn(nn.Flatten(), images, subset, KNN(k=(1,)), Evaluate(), Data(), CPU)
    assert results[1].top1 == 100.0
    assert set(results[1].per_class.values()) == {100.0}
    assert results[1].metrics() == {"top1": 100.0, "many": 100.0, "medium": 100.0, "few": 100.0}


def test_every_k_gets_what_it_would_get_alone() -> None:
    images, wanted = digits.load(), Data()
    subset = training_subset(wanted, images)
    together = evaluate_knn(nn.Flatten(), images, subset, KNN(k=(20, 1)), Evaluate(), wanted, CPU)
    for k in (20, 1):
        alone = evaluate_knn(nn.Flatten(), images, subset, KNN(k=(k,)), Evaluate(), wanted, CPU)
        assert together[k] == alone[k]
    assert list(together) == [20, 1]
    assert 95 < together[1].top1 < 100  # raw pixels of digits are a good representation


def test_accuracies_are_over_all_images_by_class_and_by_group() -> None:
    """Each image is one of ten colours; the bank calls colours 0 and 9 by the name of class 5."""
    wanted = Data.model_validate({"profile": {"name": "long_tailed", "imbalance": 2}, "image_size": 2})
    codes = np.repeat(np.arange(10), 4)
    pixels = np.zeros((40, 3, 2, 2), np.uint8)
    for bit, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        pixels[:, :, row, column] = np.where(codes >> bit & 1, 255, 1)[:, None]
    test = ArrayImages(pixels, codes.astype(np.int64))
    train = ArrayImages(pixels, np.where(np.isin(codes, (0, 9)), 5, codes).astype(np.int64))
    names = tuple("abcdefghij")
    images = ImageData("digits", "", "", names, train, test, (0.5,) * 3, (0.5,) * 3)
    whole = ImageData("digits", "", "", names, test, test, (0.5,) * 3, (0.5,) * 3)
    subset = training_subset(wanted, whole)
    (result,) = evaluate_knn(nn.Flatten(), images, subset, KNN(k=(1,)), Evaluate(), wanted, CPU).values()
    assert result.top1 == pytest.approx(80.0)
    assert result.per_class == {name: 0.0 if name in "aj" else 100.0 for name in names}
    assert result.groups == {"many": 75.0, "medium": 100.0, "few": pytest.approx(200 / 3)}


def test_the_bank_is_the_whole_pool_or_the_subset() -> None:
    images = digits.load()
    wanted = Data.model_validate({"profile": {"name": "long_tailed", "imbalance": 100}})
    subset = training_subset(wanted, images)
    full, train = (
        evaluate_knn(nn.Flatten(), images, subset, KNN(k=(20,), bank=bank), Evaluate(), wanted, CPU)[20]
        for bank in ("full", "train")
    )
    assert full.groups["few"] > 85
    assert train.groups["few"] < 30  # rare classes have 1 to 3 images among 20 neighbours


class Affine(nn.Module):
    """A network whose output tells its mode, with a part that is frozen on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.frozen(self.norm(images)).flatten(1)


def test_networks_are_evaluated_in_evaluation_mode_and_left_as_they_were() -> None:
    network = Affine()
    images = torch.randn(4, 3, 2, 2) + 5
    outputs, labels = features(network, [(images, torch.arange(4))], CPU)
    torch.testing.assert_close(outputs, images.flatten(1), atol=1e-3, rtol=1e-3)  # running statistics, not the batch's
    assert labels.tolist() == [0, 1, 2, 3] and outputs.dtype == torch.float32
    assert not outputs.requires_grad
    assert network.training and network.norm.training and not network.frozen.training
    assert int(network.norm.num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [2, 3])
def test_nothing_depends_on_the_number_of_processes(tmp_path: Path, world_size: int) -> None:
    """In batches of 200 the 500 test images are three batches, and their one block of queries leaves processes idle."""
    expected, expected_labels, expected_result = _evaluated()
    context = get_context("fork")
    with context.Pool(world_size) as processes:
        jobs = [(rank, world_size, tmp_path / "store") for rank in range(world_size)]
        results = processes.starmap(_evaluated_by_rank, jobs, chunksize=1)
    for outputs, labels, result in results:
        assert np.array_equal(outputs, expected) and np.array_equal(labels, expected_labels)
        assert result == expected_result


def _evaluated_by_rank(rank: int, world_size: int, store: Path):  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        return _evaluated()
    finally:
        dist.destroy_process_group()


def _evaluated():  # type: ignore[no-untyped-def]
    images, wanted, evaluate = digits.load(), Data(), Evaluate(batch_size=200)
    chosen = np.arange(500)[::-1].copy()
    outputs, labels = image_features(nn.Flatten(), images.test, chosen, images, size=8, batch_size=200, device=CPU)
    subset = training_subset(wanted, images)
    result = evaluate_knn(nn.Flatten(), images, subset, KNN(k=(20, 1)), evaluate, wanted, CPU)
    return outputs.numpy(), labels.numpy(), result
