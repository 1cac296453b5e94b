"""Linear classifiers on frozen representations, by the papers' protocols (:mod:`trainers.evaluate.protocols`).

Classifiers that differ in the block they read or in their learning rate share nothing but the encoder's forward pass,
so they are all trained at once: the gradient of the sum of their losses is each one's own (SDSSL's layer-wise
protocol). Every process trains the same classifiers on the same features; only the encoder's work is shared out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config, rng
from trainers.config.views import CROP_AND_FLIP, PAD_AND_FLIP, View
from trainers.data.images import ArrayImages
from trainers.data.subset import Group
from trainers.evaluate.accuracy import Accuracy, measure_accuracy
from trainers.evaluate.features import FrozenNetwork, Labelled, labelled
from trainers.evaluate.protocols import LinearProtocol, linear_protocol
from trainers.optimizers import build_optimizer, set_learning_rate
from trainers.schedule import learning_rate

Ints = npt.NDArray[np.int64]

#: One in so many training images is held out while learning rates are compared.
_HELD_OUT = 10

#: What ISD adds to a variance before it divides by its root.
_EPSILON = 1e-5


def evaluate_linear(
    network: FrozenNetwork,
    linear: config.Linear,
    indices: Ints,
    groups: Sequence[Group] | None,
    *,
    seed: int,
    split_seed: int,
) -> Accuracy:
    """Train a linear classifier on the representation, and classify the test images by it.

    With several processes all must call; all get the same result, which does not depend on their number.

    Args:
        network: gives (N, d).
        indices: training images whose labels are used.
        groups: of each class, in class order; None for a data set without groups.
        seed: draws the start of the classifier, the order of the images and their crops.
        split_seed: draws the images that are held out to choose among several learning rates.
    """
    (accuracy,) = _Probe(network, linear_protocol(linear), groups, seed, split_seed).evaluate(indices)
    return accuracy


def evaluate_linear_by_block(
    network: FrozenNetwork,
    linear: config.Linear,
    indices: Ints,
    groups: Sequence[Group] | None,
    *,
    seed: int,
    split_seed: int,
) -> Iterator[tuple[int, Accuracy]]:
    """As :func:`evaluate_linear` on every block of a vision transformer: its number, from 1, and its accuracy.

    Each block has a classifier of its own, and, where there are several learning rates, a choice of its own. The last
    block's is what :func:`evaluate_linear` gives.
    """
    protocol = linear_protocol(linear)
    keeping_features = protocol.images == "plain" or protocol.normalise != "none"
    for blocks, several in network.by_blocks(keeping_features=keeping_features):
        probe = _Probe(several, protocol, groups, seed, split_seed)
        yield from zip((block + 1 for block in blocks), probe.evaluate(indices), strict=True)


@dataclass(frozen=True, eq=False)
class _Head:
    """A linear classifier that is being trained.

    Attributes:
        block: which of the L representations it reads.
        weight, bias: (C, d) and (C,).
        train: its optimization; the learning rate is its own.
    """

    block: int
    weight: nn.Parameter
    bias: nn.Parameter
    train: config.Train

    def __call__(self, features: Tensor) -> Tensor:
        """(B, L, d) -> logits (B, C)."""
        return F.linear(features[:, self.block], self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class _Probe:
    """A protocol on the L representations that a network gives of an image; one, if it gives (N, d)."""

    network: FrozenNetwork
    protocol: LinearProtocol
    groups: Sequence[Group] | None
    seed: int
    split_seed: int

    def evaluate(self, indices: Ints) -> list[Accuracy]:
        """The accuracy on the test images of a classifier for each representation, trained on these images."""
        heads = self._train(indices, list(enumerate(self._learning_rates(indices))))
        features, labels = self.network.test
        names = self.network.images.class_names
        with torch.no_grad():
            normalised = self._normalise(_stacked(features))
            ranked = [head(normalised).topk(min(5, len(names)), dim=1).indices for head in heads]
        return [measure_accuracy(predictions, labels, names, self.groups) for predictions in ranked]

    def _learning_rates(self, indices: Ints) -> list[float]:
        """Of each representation: the one that classifies the held-out images best; of equals, the most confidently."""
        rates, num_blocks = self.protocol.learning_rates, self._shape[0]
        if len(rates) == 1:
            return [rates[0]] * num_blocks
        order = rng.permutation(rng.derive(self.split_seed, "linear", "held_out"), len(indices))
        num_held_out = max(1, len(indices) // _HELD_OUT)
        held_out, others = indices[order[:num_held_out]], np.sort(indices[order[num_held_out:]])
        heads = self._train(others, [(block, rate) for block in range(num_blocks) for rate in rates])
        features, labels = self.network.of_training_images(held_out)
        with torch.no_grad():
            normalised = self._normalise(_stacked(features))
            scores = [_score(head(normalised), labels) for head in heads]
        blocks = range(0, len(scores), len(rates))
        return [rates[max(range(len(rates)), key=scores[first : first + len(rates)].__getitem__)] for first in blocks]

    def _train(self, indices: Ints, wanted: Sequence[tuple[int, float]]) -> list[_Head]:
        """Train a classifier for each pair of a representation and a learning rate, on the same batches."""
        heads = [self._initial_head(block, rate) for block, rate in wanted]
        optimizers = [(head, build_optimizer([head.weight, head.bias], head.train)) for head in heads]
        train = self.protocol.train
        steps_per_epoch = math.ceil(len(indices) / train.batch_size)
        for epoch in range(train.epochs):
            for step, (features, labels) in enumerate(self._batches(indices, epoch), start=epoch * steps_per_epoch):
                normalised = self._normalise(features)
                losses = torch.stack([F.cross_entropy(head(normalised), labels) for head in heads])
                losses.sum().backward()  # type: ignore[no-untyped-call]
                for head, optimizer in optimizers:
                    set_learning_rate(optimizer, learning_rate(head.train, step=step, steps_per_epoch=steps_per_epoch))
                    optimizer.step()
                    optimizer.zero_grad()
        return heads

    def _initial_head(self, block: int, rate: float) -> _Head:
        """The same start whatever the block and the learning rate."""
        num_classes, dim = len(self.network.images.class_names), self._shape[1]
        weight, bias = torch.zeros(num_classes, dim), torch.zeros(num_classes)
        generator = torch.Generator().manual_seed(rng.derive(self.seed, "linear", "head"))
        if self.protocol.initial == "normal":
            weight.normal_(std=0.01, generator=generator)
        elif self.protocol.initial == "torch":
            bound = 1 / math.sqrt(dim)
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)
        device = self.network.reading.device
        train = self.protocol.train.model_copy(update={"learning_rate": rate})
        return _Head(block, nn.Parameter(weight.to(device)), nn.Parameter(bias.to(device)), train)

    def _batches(self, indices: Ints, epoch: int) -> Iterator[Labelled]:
        """An epoch in random order: features (B, L, d), not yet normalised, and labels (B,)."""
        seed, batch_size = rng.derive(self.seed, "linear"), self.protocol.train.batch_size
        if self.protocol.images != "plain":
            for features, labels in self.network.of_training_views(
                indices, self._view, seed=seed, epoch=epoch, batch_size=batch_size
            ):
                yield _stacked(features), labels
            return
        features, labels = self.network.train
        order = rng.epoch_permutation(seed, epoch, len(indices))
        rows = np.searchsorted(labelled(self.network.images.train), indices[order])
        for chosen in torch.split(torch.from_numpy(rows).to(labels.device), batch_size):
            self.network.reading.between_batches()
            yield _stacked(features)[chosen], labels[chosen]

    @property
    def _view(self) -> View:
        of_one_size = isinstance(self.network.images.train, ArrayImages)
        return PAD_AND_FLIP if self.protocol.images == "padded_crops" and of_one_size else CROP_AND_FLIP

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Number and width of the representations."""
        _, num_blocks, dim = _stacked(self.network.test[0]).shape
        return num_blocks, dim

    def _normalise(self, features: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d), as the protocol asks."""
        if self.protocol.normalise == "none":
            return features
        mean, scale = self._statistics
        return (F.normalize(features, dim=2) - mean) * scale

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and 1 / deviation of each number of the unit representations of all training images, (L, d) each."""
        variance, mean = torch.var_mean(F.normalize(_stacked(self.network.train[0]), dim=2), dim=0)
        return mean, (variance + _EPSILON).rsqrt()


def _stacked(features: Tensor) -> Tensor:
    """(N, d) or (N, L, d) -> (N, L, d)."""
    return features if features.dim() == 3 else features[:, None]


def _score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and negative loss on held-out images; what has diverged comes last."""
    loss = F.cross_entropy(logits, labels).item()
    return ((logits.argmax(1) == labels).double().mean().item(), -loss) if math.isfinite(loss) else (-1.0, 0.0)
