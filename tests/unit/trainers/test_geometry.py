"""Alignment, uniformity and effective rank, against values that can be worked out by hand; and the sign of collapse."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers import config
from trainers.config.views import CROP_AND_FLIP
from trainers.data import digits
from trainers.evaluate import FrozenNetwork, Reading, evaluate_geometry
from trainers.evaluate.geometry import alignment, effective_rank, uniformity

GENERATOR = torch.Generator().manual_seed(0)


def random_features(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=GENERATOR)


def test_alignment_is_the_mean_squared_distance_on_the_sphere() -> None:
    features = random_features(20, 5)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert alignment(features, -features) == pytest.approx(4)
    assert alignment(torch.eye(4)[:2], torch.eye(4)[2:]) == pytest.approx(2)
    assert alignment(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [1.0, 0.0]])) == pytest.approx(1)


def test_uniformity_is_the_logarithm_of_the_mean_potential_of_pairs() -> None:
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.eye(6)) == pytest.approx(-4)  # every squared distance is 2
    rows = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    potentials = [math.exp(-2 * 2), math.exp(-2 * 2), math.exp(-2 * 4)]
    assert uniformity(torch.tensor(rows) * 7) == pytest.approx(math.log(sum(potentials) / 3))


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.cat([torch.eye(3), torch.eye(3)])) == pytest.approx(3)
    # Nine times one direction, once another: singular values 3 and 1.
    features = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    assert effective_rank(features) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


def test_equal_features_have_rank_one_and_zeros_none() -> None:
    constant = random_features(1, 64).expand(300, -1)
    assert effective_rank(constant) == pytest.approx(1)
    assert 1 < effective_rank(constant + 1e-4 * random_features(300, 64)) < 1.1
    assert effective_rank(torch.zeros(10, 4)) == 0.0


class Constant(nn.Module):
    """Answers every image with the same vector, but for a rest of it."""

    def __init__(self, rest: float) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, images: Tensor) -> Tensor:
        return 1 + self.rest * images.flatten(1)


class Flat(nn.Module):
    """Answers with pixels, counting how many images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)


def frozen(network: nn.Module) -> FrozenNetwork:
    images = digits.load()
    reading = Reading(size=8, batch_size=64, mean=images.mean, std=images.std, device=torch.device("cpu"))
    return FrozenNetwork(network, images, reading)


@pytest.mark.parametrize(("network", "is_collapsed"), [(Constant(0), True), (Constant(1e-3), True), (Flat(), False)])
def test_a_collapsed_network_is_recognised_and_no_other(network: nn.Module, is_collapsed: bool) -> None:
    assert evaluate_geometry(frozen(network), config.Geometry(images=200), split_seed=0).is_collapsed is is_collapsed


def test_the_images_and_views_are_drawn_by_the_split_seed_alone() -> None:
    def measure(split_seed: int, images: int = 100) -> object:
        return evaluate_geometry(frozen(nn.Flatten()), config.Geometry(images=images), split_seed)

    assert measure(0) == measure(0) != measure(1)
    assert measure(0, images=500) == measure(0, images=10_000) != measure(0)


def test_views_of_an_image_are_closer_than_views_of_two() -> None:
    network = frozen(nn.Flatten())
    chosen = np.arange(200)
    first, second = (network.of_test_views(chosen, CROP_AND_FLIP, seed=5, epoch=epoch) for epoch in range(2))
    assert 0 < alignment(first, second) < 0.95 * alignment(first, second.roll(1, 0))


def test_only_the_images_that_are_asked_for_are_augmented() -> None:
    network = Flat()
    evaluate_geometry(frozen(network), config.Geometry(images=30), split_seed=0)
    assert network.seen == 500 + 2 * 30
