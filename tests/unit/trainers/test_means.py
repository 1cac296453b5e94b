"""Means of logged values: weighted by images, over all ranks, exact across an interruption."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.means import RunningMeans, Sums

CPU = torch.device("cpu")


def values(loss: float, accuracy: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(loss), "accuracy": torch.tensor(accuracy)}


def test_means_are_weighted_by_images() -> None:
    means = RunningMeans(CPU)
    means.add(values(1.0, 0.5), images=10)
    means.add(values(4.0, 0.0), images=30)
    assert means.gather().means() == {"loss": 3.25, "accuracy": 0.125}


def test_nothing_added_has_no_means() -> None:
    means = RunningMeans(CPU)
    assert means.is_empty and means.gather().means() == {}
    means.add(values(1.0, 0.0), images=1)
    assert not means.is_empty
    means.reset()
    assert means.is_empty and means.gather().means() == {}


def test_an_interruption_changes_no_bit() -> None:
    losses = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 1e-3 + 7
    undisturbed, first = RunningMeans(CPU), RunningMeans(CPU)
    for loss in losses:
        undisturbed.add({"loss": loss}, images=3)
    for loss in losses[:20]:
        first.add({"loss": loss}, images=3)
    second = RunningMeans(CPU)
    second.restore(first.gather(), rank=0, world_size=1)
    for loss in losses[20:]:
        second.add({"loss": loss}, images=3)
    assert second.gather().means() == undisturbed.gather().means()


def test_more_or_fewer_ranks_lose_nothing() -> None:
    saved = Sums(("loss",), torch.tensor([[10.0, 4.0], [50.0, 4.0]], dtype=torch.float64))
    assert saved.means() == {"loss": 7.5}
    parts = []
    for rank in range(3):
        means = RunningMeans(CPU)
        means.restore(saved, rank, world_size=3)
        assert not means.is_empty
        parts.append(means.gather().table)
    assert Sums(("loss",), torch.cat(parts)).means() == {"loss": 7.5}


def test_one_nan_in_many_is_seen() -> None:
    means = RunningMeans(CPU)
    for loss in (1.0, float("nan"), 1.0):
        means.add({"loss": torch.tensor(loss)}, images=1)
    assert not means.gather().is_finite()
