"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv 1805.01978, section 3.4), exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config
from trainers.data.images import ImageData
from trainers.data.subset import Group, Subset
from trainers.evaluate.features import image_features
from trainers.evaluate.groups import class_accuracies, group_accuracies
from trainers.evaluate.sharing import merged, own_rows

#: Queries compared with the whole bank at once.
_CHUNK = 512


@dataclass(frozen=True)
class KnnResult:
    """Accuracy on the test images, all in percent.

    Attributes:
        top1: over all test images.
        per_class: by class name, in class order.
        groups: mean accuracy of the classes in each group.
    """

    top1: float
    per_class: dict[str, float]
    groups: dict[Group, float]

    def metrics(self) -> dict[str, float]:
        """``top1`` and the groups by name."""
        return {"top1": self.top1, **{str(group): accuracy for group, accuracy in self.groups.items()}}


def evaluate_knn(
    network: nn.Module,
    images: ImageData,
    subset: Subset,
    knn: config.KNN,
    evaluate: config.Evaluate,
    data: config.Data,
    device: torch.device,
    *,
    workers: int = 0,
) -> dict[int, KnnResult]:
    """Classify the test images by their neighbours among the training images, for every k of ``knn.k``.

    Features are computed once. With several processes all must call; all get the same result.

    Args:
        network: (B, 3, S, S) -> (B, d). Its mode is restored.
        subset: the bank if ``knn.bank`` is ``train``; its groups are reported in either case.
    """
    size = data.side
    bank_indices = subset.indices if knn.bank == "train" else None
    bank, bank_labels = image_features(
        network, images.train, bank_indices, images,
        size=size, batch_size=evaluate.batch_size, device=device, workers=workers,
    )  # fmt: skip
    queries, labels = image_features(
        network, images.test, None, images,
        size=size, batch_size=evaluate.batch_size, device=device, workers=workers,
    )  # fmt: skip
    num_classes = len(images.class_names)
    predictions, labels = _predict_for_each_k(bank, bank_labels, queries, knn, num_classes).cpu(), labels.cpu()
    results = {}
    for place, k in enumerate(knn.k):
        predicted = predictions[:, place]
        per_class = class_accuracies(predicted, labels, num_classes)
        results[k] = KnnResult(
            top1=100 * (predicted == labels).double().mean().item(),
            per_class=dict(zip(images.class_names, per_class, strict=True)),
            groups=group_accuracies(per_class, subset.groups),
        )
    return results


def _predict_for_each_k(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, knn: config.KNN, num_classes: int
) -> Tensor:
    """Predictions (M, len(knn.k)), int64. Neighbours are looked for once; processes share the queries."""
    places = own_rows(len(queries), _CHUNK)
    similarities, neighbours = _nearest(bank, queries[torch.from_numpy(places).to(queries.device)], max(knn.k), _CHUNK)
    votes = [
        _vote(
            similarities[:, :k],
            bank_labels[neighbours[:, :k]],
            temperature=knn.temperature,
            weighted=knn.weighted,
            num_classes=num_classes,
        )
        for k in knn.k
    ]
    return merged(torch.stack(votes, dim=1), places, len(queries))


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
