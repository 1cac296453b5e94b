"""The encoder as of its best evaluation, kept where ``runtime.keep_best`` asks for it.

The best so far is part of the checkpoint, weights and all: steps that are rolled back take what they found with them,
and a run that goes on from a checkpoint ends with the best of one that was never interrupted. The file beside the
checkpoints only shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from trainers.checkpoint import write_encoder

if TYPE_CHECKING:
    from trainers.training import Training


class NotMeasured(Exception):
    """The metric that the best encoder is to be chosen by is not one of the run's; one sentence for the user."""


@dataclass(frozen=True, eq=False)
class Best:
    """An encoder and what it was chosen by.

    Attributes:
        metric, value: the highest value so far, and of what.
        step: optimizer steps done when it was measured.
        network: the encoder's name.
        weights: on the CPU.
    """

    metric: str
    value: float
    step: int
    network: str
    weights: dict[str, Tensor]

    def to_state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """What :meth:`to_state` gave."""
        return cls(**state)


def consider(training: Training, metrics: Mapping[str, float]) -> None:
    """Keep the encoder as it is now, if these metrics of it are better than all before. Only rank 0 keeps it.

    Raises:
        NotMeasured: what is asked for is not among them; on every rank.
    """
    metric = training.config.runtime.keep_best
    if metric is None:
        return
    if metric not in metrics:
        measured = ", ".join(sorted(name for name in metrics if name.startswith("eval/knn") and name.endswith("/top1")))
        raise NotMeasured(f"runtime.keep_best={metric} is not measured; there are {measured}, and their groups")
    is_better = training.best is None or metrics[metric] > training.best.value
    if not (is_better and training.is_first_rank):
        return
    network, encoder = next(iter(training.method.encoders().items()))
    weights = {name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()}
    training.best = Best(metric, metrics[metric], training.step, network, weights)
    show(training)


def show(training: Training) -> None:
    """Bring the file of the best encoder to what the training knows: written, or removed if nothing is best yet."""
    if training.config.runtime.keep_best is None or not training.is_first_rank:
        return
    path, best = training.run_dir.best_encoder_path, training.best
    if best is None:
        path.unlink(missing_ok=True)
        return
    write_encoder(
        path,
        best.weights,
        run_id=training.run_id,
        network=best.network,
        step=best.step,
        more={"measured": {best.metric: best.value}},
    )
