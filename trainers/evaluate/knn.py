"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv 1805.01978, section 3.4), exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers import config
from trainers.data.images import ImageData
from trainers.data.subset import Subset
from trainers.evaluate.accuracy import Accuracy, measure_accuracy
from trainers.evaluate.features import FrozenNetwork, Labelled, labelled
from trainers.evaluate.sharing import merged, own_rows

#: Queries compared with the whole bank at once.
_CHUNK = 512

Bank = Literal["full", "train"]


@dataclass(frozen=True)
class KnnVariant:
    """One combination of the options of k-NN that can be lists."""

    k: int
    vote: Literal["weighted", "plain"]
    bank: Bank


def knn_variants(knn: config.KNN) -> dict[str, KnnVariant]:
    """Every combination that ``knn`` asks for, by what it adds to the metric's name: nothing for the headline.

    The headline is the first value of each option. Another number of neighbours adds ``_k<k>``, another vote
    ``_weighted`` or ``_plain``, another bank ``_trainbank`` or ``_fullbank``.
    """
    return {
        ("" if k == knn.k[0] else f"_k{k}")
        + ("" if vote == knn.vote[0] else f"_{vote}")
        + ("" if bank == knn.bank[0] else f"_{bank}bank"): KnnVariant(k, vote, bank)
        for bank in knn.bank
        for vote in knn.vote
        for k in knn.k
    }


def evaluate_knn(network: FrozenNetwork, knn: config.KNN, subset: Subset | None) -> dict[str, Accuracy]:
    """Classify the test images by their neighbours among the training images, in every variant of ``knn``.

    Features are computed once, and neighbours looked for once in each bank. With several processes all must call; all
    get the same result.

    Args:
        network: gives (N, d).
        subset: the images that were trained on, for the bank ``train``, and the groups of classes, which are reported
            in any case; None for a data set that nothing was trained on.

    Returns:
        By the name of the variant (:func:`knn_variants`).
    """
    groups = None if subset is None else subset.groups
    return {
        name: measure_accuracy(predictions, network.test[1], network.images.class_names, groups)
        for name, predictions in _predictions(network, knn, subset)
    }


def evaluate_knn_by_block(
    network: FrozenNetwork, knn: config.KNN, subset: Subset | None
) -> Iterator[tuple[int, Accuracy]]:
    """The headline variant on every block of a vision transformer: the block's number, from 1, and its accuracy."""
    groups = None if subset is None else subset.groups
    headline = next(iter(knn_variants(knn).values()))
    for blocks, several in network.by_blocks(keeping_features=True):
        (bank, bank_labels), (queries, labels) = _bank(several, headline.bank, subset), several.test
        for place, block in enumerate(blocks):
            votes = _shared_votes((bank[:, place], bank_labels), queries[:, place], [headline], knn, several.images)
            yield block + 1, measure_accuracy(votes[0], labels, network.images.class_names, groups)


def _predictions(network: FrozenNetwork, knn: config.KNN, subset: Subset | None) -> Iterator[tuple[str, Tensor]]:
    """Name and predictions (M,), int64, of each variant, bank by bank."""
    for bank in knn.bank:
        variants = {name: variant for name, variant in knn_variants(knn).items() if variant.bank == bank}
        votes = _shared_votes(
            _bank(network, bank, subset), network.test[0], list(variants.values()), knn, network.images
        )
        yield from zip(variants, votes, strict=True)


def _bank(network: FrozenNetwork, bank: Bank, subset: Subset | None) -> Labelled:
    if bank == "full" or subset is None:
        return network.train
    return network.of_training_images(np.intersect1d(subset.indices, labelled(network.images.train)))


def _shared_votes(
    bank: Labelled, queries: Tensor, variants: Sequence[KnnVariant], knn: config.KNN, images: ImageData
) -> list[Tensor]:
    """Predictions (M,) of each variant. Neighbours are looked for once; processes share the queries."""
    features, labels = bank
    places = own_rows(len(queries), _CHUNK)
    own_queries = queries[torch.from_numpy(places).to(queries.device)]
    similarities, neighbours = _nearest(features, own_queries, max(knn.k), _CHUNK)
    votes = [
        _vote(
            similarities[:, : variant.k],
            labels[neighbours[:, : variant.k]],
            temperature=knn.temperature,
            weighted=variant.vote == "weighted",
            num_classes=len(images.class_names),
        )
        for variant in variants
    ]
    return list(merged(torch.stack(votes, dim=1), places, len(queries)).unbind(1))


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: int,
    temperature: float,
    weighted: bool,
    num_classes: int,
    chunk: int = _CHUNK,
) -> Tensor:
    """Predict the class of each query from the k rows of the bank with the largest cosine similarity.

    Neighbours vote for their class, with weight exp(cos / temperature) if ``weighted`` and 1 otherwise. Of classes with
    equal votes the one whose nearest member is nearest wins. With fewer than k rows in the bank, all of them vote.

    Args:
        bank: (N, d), normalised or not.
        bank_labels: (N,), int64, in [0, num_classes).
        queries: (M, d), normalised or not.
        chunk: queries compared with the bank at once; bounds the memory (chunk * N numbers).

    Returns:
        (M,), int64.
    """
    similarities, neighbours = _nearest(bank, queries, k, chunk)
    return _vote(
        similarities, bank_labels[neighbours], temperature=temperature, weighted=weighted, num_classes=num_classes
    )


def _nearest(bank: Tensor, queries: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity and row number of the k nearest rows of the bank, nearest first: two (M, min(k, N))."""
    bank = F.normalize(bank, dim=1).T  # (d, N)
    k = min(k, bank.shape[1])
    parts = [
        torch.topk(F.normalize(part, dim=1) @ bank, k, dim=1, sorted=True)
        for part in (queries[start : start + chunk] for start in range(0, max(1, len(queries)), chunk))
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _vote(
    similarities: Tensor, neighbour_labels: Tensor, *, temperature: float, weighted: bool, num_classes: int
) -> Tensor:
    """The class with the largest sum of weights for each query, (M,); both arguments (M, k), nearest first."""
    if weighted:
        # Relative to the nearest neighbour: the same decision, and no overflow at any temperature.
        weights = torch.exp((similarities - similarities[:, :1]).double() / temperature)
    else:
        weights = torch.ones_like(similarities, dtype=torch.float64)
    scores = weights.new_zeros((len(weights), num_classes))
    rows = torch.arange(len(weights), device=weights.device)
    for place in range(weights.shape[1]):  # one neighbour at a time: sums in a fixed order, also on GPUs
        scores[rows, neighbour_labels[:, place]] += weights[:, place]
    # Classes at the maximum, seen from the neighbours; argmax finds the first, which is the nearest.
    wins = scores.gather(1, neighbour_labels) == scores.amax(dim=1, keepdim=True)
    return neighbour_labels.gather(1, wins.int().argmax(dim=1, keepdim=True))[:, 0]
