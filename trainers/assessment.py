"""What a method's encoders are worth, as the named metrics that go into the journal and the result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.config import KNN, Embedding, FewLabels, Geometry, Linear, RunConfig, Transfer
from trainers.data import Group, ImageData, Subset
from trainers.evaluate import (
    Accuracy,
    FrozenNetwork,
    Reading,
    Sample,
    class_mean,
    class_std,
    evaluate_geometry,
    evaluate_knn,
    evaluate_knn_by_block,
    evaluate_linear,
    evaluate_linear_by_block,
    few_labels,
    labelled,
    sample,
)
from trainers.methods.base import Method

Ints = npt.NDArray[np.int64]

#: Protocols that take seconds: what is measured before and during the training.
QUICK = frozenset({"knn", "geometry"})


@dataclass(frozen=True)
class Measured:
    """What one protocol says of the networks of a method.

    Attributes:
        metrics: name -> value, such as ``eval/knn/top1``; accuracies in percent.
        per_class: protocol and network -> class name -> accuracy in percent, in class order.
        warnings: what a reader of the numbers must know; one sentence each.
        confusions: protocol and network as in ``per_class`` -> images by true and predicted class, (C, C).
        sample: representations to be shown in the plane; None where no embedding is asked for.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    confusions: dict[str, Tensor] = field(default_factory=dict, compare=False)
    sample: Sample | None = field(default=None, compare=False)

    @classmethod
    def union(cls, parts: Iterable[Measured]) -> Self:
        """What all of them say, in their order."""
        metrics: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {}
        warnings: tuple[str, ...] = ()
        confusions: dict[str, Tensor] = {}
        shown: Sample | None = None
        for part in parts:
            metrics |= part.metrics
            per_class |= part.per_class
            warnings += part.warnings
            confusions |= part.confusions
            shown = shown or part.sample
        return cls(metrics, per_class, warnings, confusions, shown)


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

    @property
    def confusions(self) -> dict[str, Tensor]:
        """Of all protocols."""
        return Measured.union(self.parts.values()).confusions

    @property
    def sample(self) -> Sample | None:
        """What is to be shown in the plane."""
        return Measured.union(self.parts.values()).sample

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
        name: of the network.
        suffix: of the names of its results; none for the network that the paper evaluates.
        encoder: gives the representation.
        embedder: the same with the projector; without one, ``encoder``.
    """

    name: str
    suffix: str
    encoder: FrozenNetwork
    embedder: FrozenNetwork

    def on(self, images: ImageData, size: int) -> _Subject:
        """The same network on another data set, normalised as the network was trained."""
        encoder, embedder = (
            replace(network, images=images, reading=replace(network.reading, size=size))
            for network in (self.encoder, self.embedder)
        )
        return replace(self, encoder=encoder, embedder=embedder)


@dataclass(frozen=True)
class Assessor:
    """The protocols of a run and the data that they need.

    Attributes:
        subset: the training images of the run; its groups of classes are reported.
        between_batches: called before each batch; raises if the run is to stop, because an evaluation can take longer
            than the time that a preempted job is given.
        transfers: the data sets of ``config.evaluate.transfer`` by their titles.
    """

    config: RunConfig
    images: ImageData
    subset: Subset
    device: torch.device
    between_batches: Callable[[], None]
    transfers: Mapping[str, ImageData] = field(default_factory=dict)

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
            only_first: leave out all but the network that the paper evaluates. Before training the others are copies
                of it, but for BYOL with an independent teacher.
            protocols: keys of those to run, of those that the configuration asks for; all for None.
            skip: keys of those to leave out.
        """
        keys = [
            key
            for key in self.config.evaluate.sections()
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
            yield _Subject(name, f"_{name}" if place else "", encoder, embedder)

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
        match self.config.evaluate.sections()[key]:
            case KNN() as section:
                return self._knn("knn", section, subject, self.subset)
            case Linear() as section:
                indices = labelled(self.images.train)
                return self._linear("linear", section, subject, indices, self.subset.groups)
            case FewLabels() as section:
                return self._few_labels(section, subject)
            case Geometry() as section:
                return self._geometry(section, subject)
            case Embedding() as section:
                if subject.suffix:
                    return Measured()  # one picture, of the network that the paper evaluates
                return Measured(sample=sample(subject.encoder, section, self.config.data.split_seed))
            case Transfer() as section:
                return self._transfer(section, subject)

    def _knn(self, name: str, knn: KNN, subject: _Subject, subset: Subset | None) -> Measured:
        network = subject.embedder if knn.features == "projection" else subject.encoder
        accuracies = {name + variant: accuracy for variant, accuracy in evaluate_knn(network, knn, subset).items()}
        blocks = evaluate_knn_by_block(subject.encoder, knn, subset) if knn.layers else ()
        return _measured(name, accuracies, blocks, subject.suffix)

    def _linear(
        self, name: str, linear: Linear, subject: _Subject, indices: Ints, groups: Sequence[Group] | None
    ) -> Measured:
        seeds = {"seed": self.config.seed, "split_seed": self.config.data.split_seed}
        if not linear.layers:
            accuracy = evaluate_linear(subject.encoder, linear, indices, groups, **seeds)
            return _measured(name, {name: accuracy}, (), subject.suffix)
        blocks = list(evaluate_linear_by_block(subject.encoder, linear, indices, groups, **seeds))
        _, last = blocks[-1]
        return _measured(name, {name: last}, blocks, subject.suffix)

    def _few_labels(self, few: FewLabels, subject: _Subject) -> Measured:
        labels, split_seed = self.images.train.labels, self.config.data.split_seed
        return Measured.union(
            self._linear(
                f"linear_{100 * share:g}pct",
                few.linear,
                subject,
                few_labels(labels, share, split_seed),
                self.subset.groups,
            )
            for share in few.shares
        )

    def _geometry(self, geometry: Geometry, subject: _Subject) -> Measured:
        found = evaluate_geometry(subject.encoder, geometry, self.config.data.split_seed)
        width = subject.encoder.test[0].shape[1]
        warning = (
            f"the {subject.name} has collapsed, or nearly so: its representations of the test images spread over "
            f"{found.effective_rank:.1f} of {width} dimensions (eval/geometry{subject.suffix}/effective_rank)"
        )
        return Measured(
            {f"eval/geometry{subject.suffix}/{name}": value for name, value in asdict(found).items()},
            warnings=(warning,) if found.is_collapsed else (),
        )

    def _transfer(self, transfer: Transfer, subject: _Subject) -> Measured:
        images = self.transfers[transfer.title]
        there = subject.on(images, transfer.side)
        name, parts = f"transfer_{transfer.title}", []
        if transfer.knn is not None:
            parts.append(self._knn(f"{name}_knn", transfer.knn, there, None))
        if transfer.linear is not None:
            parts.append(self._linear(f"{name}_linear", transfer.linear, there, labelled(images.train), None))
        measured = Measured.union(parts)
        if transfer.metric == "per_class":
            measured.metrics.update(
                {f"eval/{name}/class_mean": class_mean(per_class) for name, per_class in measured.per_class.items()}
            )
        return measured


def _measured(
    headline: str, accuracies: dict[str, Accuracy], blocks: Iterable[tuple[int, Accuracy]], suffix: str
) -> Measured:
    """Accuracies as metrics, and by class those of whole networks.

    Args:
        headline: the name in ``accuracies`` whose spread over the classes is reported, and that the blocks' are after.
        blocks: number of a block, from 1, and its accuracy.
        suffix: of the network.
    """
    metrics: dict[str, float] = {}
    named_blocks = {f"{headline}_layer{number}": accuracy for number, accuracy in blocks}
    for name, accuracy in (accuracies | named_blocks).items():
        metrics |= {f"eval/{name}{suffix}/{measure}": value for measure, value in accuracy.metrics().items()}
    metrics[f"eval/{headline}{suffix}/class_std"] = class_std(accuracies[headline].per_class)
    return Measured(
        metrics,
        per_class={name + suffix: dict(accuracy.per_class) for name, accuracy in accuracies.items()},
        confusions={
            name + suffix: accuracy.confusion for name, accuracy in accuracies.items() if accuracy.confusion is not None
        },
    )
