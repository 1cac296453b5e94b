"""What a method's encoders are worth, as the named metrics that go into the journal and the result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from trainers.config import KNN, RunConfig
from trainers.data import ImageData, Subset
from trainers.evaluate import Accuracy, FrozenNetwork, Reading, evaluate_knn, evaluate_knn_by_block
from trainers.methods.base import Method

#: Protocols that take seconds: what is measured before and during the training.
QUICK = frozenset({"knn", "geometry"})


@dataclass(frozen=True)
class Measured:
    """What one protocol says of the networks of a method.

    Attributes:
        metrics: name -> value, such as ``eval/knn/top1``; accuracies in percent.
        per_class: protocol and network -> class name -> accuracy in percent, in class order.
        warnings: what a reader of the numbers must know; one sentence each.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def union(cls, parts: Iterable[Measured]) -> Self:
        """What all of them say, in their order."""
        metrics: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {}
        warnings: tuple[str, ...] = ()
        for part in parts:
            metrics |= part.metrics
            per_class |= part.per_class
            warnings += part.warnings
        return cls(metrics, per_class, warnings)


@dataclass(frozen=True)
class Assessment:
    """Results of some protocols on the networks of a method.

    Attributes:
        parts: by the key of the protocol (:meth:`trainers.config.Evaluate.protocols`).
    """

    parts: dict[str, Measured] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Of all protocols."""
        return Measured.union(self.parts.values()).metrics

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Of all protocols."""
        return Measured.union(self.parts.values()).per_class

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all protocols."""
        return Measured.union(self.parts.values()).warnings

    def to_state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint. Which protocol each came from is left out."""
        return {"metrics": self.metrics, "per_class": self.per_class}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """What :meth:`to_state` gave, as one part."""
        return cls({"": Measured(**state)})


@dataclass(frozen=True, eq=False)
class _Subject:
    """A network of a method under evaluation.

    Attributes:
        suffix: of the names of its results; none for the network that the paper evaluates.
        embedder: with its projector; without one, the same as ``encoder``.
    """

    suffix: str
    encoder: FrozenNetwork
    embedder: FrozenNetwork


@dataclass(frozen=True)
class Assessor:
    """The protocols of a run and the data that they need.

    Attributes:
        subset: the training images of the run; its groups of classes are reported.
        between_batches: called before each batch; raises if the run is to stop, because an evaluation can take longer
            than the time that a preempted job is given.
    """

    config: RunConfig
    images: ImageData
    subset: Subset
    device: torch.device
    between_batches: Callable[[], None]

    def assess(
        self,
        method: Method,
        *,
        only_first: bool = False,
        protocols: Collection[str] | None = None,
        skip: Collection[str] = frozenset(),
    ) -> Assessment:
        """Evaluate a method's networks on the test images. A collective; equal on every rank.

        Args:
            only_first: leave out all but the network that the paper evaluates. Before training they are all equal.
            protocols: keys of those to run, of those that the configuration asks for; all for None.
            skip: keys of those to leave out.
        """
        keys = [
            key
            for key in self.config.evaluate.protocols()
            if key not in skip and (protocols is None or key in protocols)
        ]
        measured: dict[str, list[Measured]] = {key: [] for key in keys}
        for subject in self._subjects(method, only_first or self.config.evaluate.networks == "paper"):
            for key in keys:
                measured[key].append(self._measure(key, subject))
        return Assessment({key: Measured.union(parts) for key, parts in measured.items()})

    def _subjects(self, method: Method, only_first: bool) -> Iterator[_Subject]:
        embedders = method.embedders()
        for place, (name, network) in enumerate(method.encoders().items()):
            if place and only_first:
                return
            encoder = FrozenNetwork(network, self.images, self._reading)
            embedder = FrozenNetwork(embedders[name], self.images, self._reading) if name in embedders else encoder
            yield _Subject(f"_{name}" if place else "", encoder, embedder)

    @property
    def _reading(self) -> Reading:
        return Reading(
            size=self.config.data.side,
            batch_size=self.config.evaluate.batch_size,
            mean=self.images.mean,
            std=self.images.std,
            device=self.device,
            workers=self.config.runtime.workers,
            between_batches=self.between_batches,
        )

    def _measure(self, key: str, subject: _Subject) -> Measured:
        evaluate = self.config.evaluate
        if key == "knn" and evaluate.knn is not None:
            return self._knn(evaluate.knn, subject)
        return Measured()

    def _knn(self, knn: KNN, subject: _Subject) -> Measured:
        network = subject.embedder if knn.features == "projection" else subject.encoder
        accuracies = evaluate_knn(network, knn, self.subset)
        results = {f"knn{variant}{subject.suffix}": accuracy for variant, accuracy in accuracies.items()}
        measured = _measured(results)
        headline = f"knn{subject.suffix}"
        measured.metrics[f"eval/{headline}/class_std"] = results[headline].class_std
        if knn.layers:
            for number, accuracy in evaluate_knn_by_block(subject.encoder, knn, self.subset):
                results = {f"knn_layer{number}{subject.suffix}": accuracy}
                measured.metrics.update(_metrics(results))
        return measured


def _measured(results: dict[str, Accuracy]) -> Measured:
    """Accuracies by protocol and network as metrics, and by class."""
    return Measured(_metrics(results), {name: dict(accuracy.per_class) for name, accuracy in results.items()})


def _metrics(results: dict[str, Accuracy]) -> dict[str, float]:
    return {
        f"eval/{name}/{measure}": value
        for name, accuracy in results.items()
        for measure, value in accuracy.metrics().items()
    }
