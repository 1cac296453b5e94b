"""k-NN evaluation, against numbers that can be checked on paper and a slow second implementation."""

import math
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.backbones import VisionTransformer
from trainers.config import KNN, Data
from trainers.config.views import CROP_AND_FLIP, View
from trainers.data import ArrayImages, ImageData, digits, training_subset
from trainers.evaluate import (
    FrozenNetwork,
    Reading,
    class_mean,
    class_std,
    evaluate_knn,
    evaluate_knn_by_block,
    knn_predict,
)

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


def frozen(network: nn.Module, images: ImageData, batch_size: int = 512) -> FrozenNetwork:
    size = images.test.pixels.shape[-1] if isinstance(images.test, ArrayImages) else 8
    return FrozenNetwork(
        network,
        images,
        Reading(size=size, batch_size=batch_size, mean=images.mean, std=images.std, device=CPU),
    )


def same_train_and_test(images: ImageData) -> ImageData:
    return replace(images, train=images.test)


def test_an_image_that_is_its_own_neighbour_is_always_right() -> None:
    images = same_train_and_test(digits.load())
    subset = training_subset(Data(), images)
    (result,) = evaluate_knn(frozen(nn.Flatten(), images), KNN(k=(1,)), subset).values()
    assert result.top1 == 100.0
    assert set(result.per_class.values()) == {100.0}
    assert result.metrics() == {"top1": 100.0, "many": 100.0, "medium": 100.0, "few": 100.0}


def test_every_variant_gets_what_it_would_get_alone() -> None:
    images, wanted = digits.load(), Data.model_validate({"profile": {"name": "long_tailed", "imbalance": 20}})
    subset = training_subset(wanted, images)
    network = frozen(nn.Flatten(), images)
    knn = KNN(k=(20, 1), vote=("plain", "weighted"), bank=("full", "train"))
    together = evaluate_knn(network, knn, subset)
    alone = {
        name: evaluate_knn(network, KNN(k=(k,), vote=(vote,), bank=(bank,)), subset)[""]
        for name, k, vote, bank in [
            ("", 20, "plain", "full"),
            ("_k1", 1, "plain", "full"),
            ("_weighted", 20, "weighted", "full"),
            ("_k1_weighted", 1, "weighted", "full"),
            ("_trainbank", 20, "plain", "train"),
            ("_k1_trainbank", 1, "plain", "train"),
            ("_weighted_trainbank", 20, "weighted", "train"),
            ("_k1_weighted_trainbank", 1, "weighted", "train"),
        ]
    }
    assert together == alone
    for name, weighted in (("", False), ("_weighted", True)):
        (bank, bank_labels), (queries, labels) = network.train, network.test
        predictions = knn_predict(
            bank, bank_labels, queries, k=20, temperature=knn.temperature, weighted=weighted, num_classes=10
        )
        assert together[name].top1 == 100 * (predictions == labels).double().mean().item()
    assert together[""] != together["_weighted"]
    assert 95 < together["_k1"].top1 < 100  # raw pixels of digits are a good representation


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
    images = replace(digits.load(), class_names=names, train=train, test=test)
    subset = training_subset(wanted, replace(images, train=test))
    (result,) = evaluate_knn(frozen(nn.Flatten(), images), KNN(k=(1,)), subset).values()
    assert result.top1 == pytest.approx(80.0)
    assert result.per_class == {name: 0.0 if name in "aj" else 100.0 for name in names}
    assert result.groups == {"many": 75.0, "medium": 100.0, "few": pytest.approx(200 / 3)}
    assert class_mean(result.per_class) == pytest.approx(80.0)
    assert class_std(result.per_class) == pytest.approx(40.0)  # eight times 20 away from the mean, twice 80


def test_a_class_without_test_images_counts_for_nothing() -> None:
    per_class = {"a": 40.0, "b": math.nan, "c": 60.0}
    assert (class_mean(per_class), class_std(per_class)) == (50.0, 10.0)


def test_the_bank_is_the_whole_pool_or_the_subset() -> None:
    images = digits.load()
    wanted = Data.model_validate({"profile": {"name": "long_tailed", "imbalance": 100}})
    subset = training_subset(wanted, images)
    full, train = evaluate_knn(frozen(nn.Flatten(), images), KNN(k=(20,), bank=("full", "train")), subset).values()
    assert full.groups["few"] > 85
    assert train.groups["few"] < 30  # rare classes have 1 to 3 images among 20 neighbours


def test_images_without_a_label_are_in_no_bank() -> None:
    images = digits.load()
    assert isinstance(images.train, ArrayImages)
    half = images.train.labels.copy()
    half[::2] = -1
    unlabelled = replace(images, train=ArrayImages(images.train.pixels, half))
    kept = replace(images, train=ArrayImages(images.train.pixels[1::2], images.train.labels[1::2]))
    everything = replace(training_subset(Data(), images), indices=np.arange(len(images.train)))
    results = evaluate_knn(frozen(nn.Flatten(), unlabelled), KNN(k=(5,), bank=("full", "train")), everything)
    (expected,) = evaluate_knn(frozen(nn.Flatten(), kept), KNN(k=(5,)), None).values()
    assert [result.per_class for result in results.values()] == [expected.per_class] * 2


def test_the_last_block_is_the_representation_and_each_block_is_evaluated() -> None:
    torch.manual_seed(0)
    images = digits.load()
    network = frozen(
        VisionTransformer(image_size=8, patch_size=4, depth=3, dim=16, heads=2, frozen_patch_projection=True), images
    )
    subset = training_subset(Data(), images)
    knn = KNN(k=(5, 1), vote=("plain", "weighted"))
    by_block = dict(evaluate_knn_by_block(network, knn, subset))
    assert list(by_block) == [1, 2, 3]
    assert by_block[3].top1 == evaluate_knn(network, knn, subset)[""].top1
    assert len({result.top1 for result in by_block.values()}) > 1


class Affine(nn.Module):
    """A network whose output tells its mode, with a part that is frozen on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval()

    def forward(self, images: Tensor) -> Tensor:
        normed: Tensor = self.frozen(self.norm(images)).flatten(1)
        return normed


def test_networks_are_evaluated_in_evaluation_mode_and_left_as_they_were() -> None:
    network, images = Affine(), digits.load()
    outputs, labels = frozen(network, images).test
    plain, _ = frozen(nn.Flatten(), images).test
    torch.testing.assert_close(outputs, plain, atol=1e-3, rtol=1e-3)  # running statistics, not the batch's
    assert labels.tolist() == images.test.labels.tolist() and outputs.dtype == torch.float32
    assert not outputs.requires_grad
    assert network.training and network.norm.training and not network.frozen.training
    assert int(network.norm.num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [2, 3])
def test_nothing_depends_on_the_number_of_processes(tmp_path: Path, world_size: int) -> None:
    """In batches of 200 the 500 test images are three batches, and their one block of queries leaves processes idle."""
    expected = _evaluated()
    context = get_context("fork")
    with context.Pool(world_size) as processes:
        jobs = [(rank, world_size, tmp_path / "store") for rank in range(world_size)]
        results = processes.starmap(_evaluated_by_rank, jobs, chunksize=1)
    for result in results:
        assert result == expected


def _evaluated_by_rank(rank: int, world_size: int, store: Path) -> list[object]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        return _evaluated()
    finally:
        dist.destroy_process_group()


def _evaluated() -> list[object]:
    """Features of plain images and of random views, and accuracies, as plain values."""
    images = digits.load()
    network = frozen(nn.Flatten(), images, batch_size=200)
    outputs, labels = network.of_training_images(np.arange(500)[::-1].copy())
    views = [
        (batch.tolist(), batch_labels.tolist())
        for batch, batch_labels in network.of_training_views(
            np.arange(10, 60), CROP_AND_FLIP, seed=1, epoch=2, batch_size=8
        )
    ]
    result = evaluate_knn(network, KNN(k=(20, 1)), training_subset(Data(), images))
    return [outputs.tolist(), labels.tolist(), views, result]


def test_views_of_test_images_come_in_the_order_asked_for() -> None:
    images = digits.load()
    chosen = np.array([7, 3, 400, 12, 60])
    whole = View(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
    network = frozen(nn.Flatten(), images, batch_size=2)
    outputs = network.of_test_views(chosen, whole, seed=3, epoch=0)
    torch.testing.assert_close(outputs, network.test[0][torch.from_numpy(chosen)])
