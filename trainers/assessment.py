"""What a method's encoders are worth, as the named metrics that go into the journal and the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainers.config import KNN, RunConfig
from trainers.data import ImageData, Subset
from trainers.evaluate import KnnResult, evaluate_knn
from trainers.methods.base import Method


@dataclass(frozen=True)
class Assessment:
    """Results of all protocols on all networks of a method.

    Attributes:
        metrics: name -> percent, such as ``eval/knn/top1``.
        per_class: protocol and network -> class name -> accuracy in percent, in class order.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {"metrics": self.metrics, "per_class": self.per_class}


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

    def assess(self, method: Method, *, only_first: bool = False) -> Assessment:
        """Evaluate a method's networks on the test images. A collective; equal on every rank.

        Args:
            only_first: leave out all but the network that the paper evaluates. Before training they are all equal.
        """
        assessment = Assessment()
        knn = self.config.evaluate.knn
        if knn is None:
            return assessment
        encoders = list(method.encoders().items())
        for place, (network, encoder) in enumerate(encoders[:1] if only_first else encoders):
            with _before_each_batch(encoder, self.between_batches):
                results = evaluate_knn(
                    encoder,
                    self.images,
                    self.subset,
                    knn,
                    self.config.evaluate,
                    self.config.data,
                    self.device,
                    workers=self.config.runtime.workers,
                )
            for protocol, result in _by_protocol(knn, results, suffix=f"_{network}" if place else ""):
                assessment.metrics[f"eval/{protocol}/top1"] = result.top1
                for group, accuracy in result.groups.items():
                    assessment.metrics[f"eval/{protocol}/{group}"] = accuracy
                assessment.per_class[protocol] = dict(result.per_class)
        return assessment


@contextmanager
def _before_each_batch(network: nn.Module, call: Callable[[], None]) -> Iterator[None]:
    hook = network.register_forward_pre_hook(lambda _module, _inputs: call())
    try:
        yield
    finally:
        hook.remove()


def _by_protocol(knn: KNN, results: dict[int, KnnResult], suffix: str) -> Iterator[tuple[str, KnnResult]]:
    """The headline number of neighbours is just ``knn``; the network that the paper evaluates has no suffix."""
    for k in knn.k:
        yield ("knn" if k == knn.k[0] else f"knn_k{k}") + suffix, results[k]
