"""What collection and the report see of an experiment and of its runs: a snapshot of the ledger, beside the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.state import RunState
from trainers.rundir import RunDir


@dataclass(frozen=True)
class TrackingOptions:
    """What the ``tracking`` section of an experiment file says of runs.

    Attributes:
        checkpoints: ``last``, ``all``, ``link``, ``none``, ``best:<metric>`` or ``every:<epochs>``.
        register_models: whether the final encoder becomes a version of a registered model.
        figures: whether figures of each finished run are drawn and uploaded.
    """

    checkpoints: str = "last"
    register_models: bool = False
    figures: bool = True


@dataclass(frozen=True)
class RunView:
    """One run of an experiment.

    Attributes:
        position: place in the grid, from 0.
        axes: axis name -> label of this run's value, in the order of the grid.
        state, reason: the ledger's state, and one sentence where the state needs one.
        backend, job_id: where the latest attempt was sent; empty before the first.
        attempts: starts so far.
        tracking: what of it is to be in the store.
    """

    run_id: str
    position: int
    axes: Mapping[str, str]
    state: RunState
    reason: str
    backend: str
    job_id: str
    attempts: int
    run_dir: RunDir
    tracking: TrackingOptions = TrackingOptions()

    @property
    def name(self) -> str:
        """For people: the labels of the axes, with the axis where the label alone is a bare number."""
        parts = [_speaking(axis, label) for axis, label in self.axes.items()]
        return " · ".join(parts) or self.run_id


@dataclass(frozen=True)
class ReportOptions:
    """The ``report`` section of an experiment file.

    Attributes:
        rows, columns: names of axes.
        metrics: names of metrics; the first is the headline.
        over: axes whose runs are averaged.
        reference: a paper's table to compare with, such as ``isd/table5``.
        baseline: label of the row that the others are compared with; None for the best of each column.
        confidence: of the intervals around differences.
        detect: a difference, in the metric's units, that one would like to be able to see.
    """

    rows: tuple[str, ...] = ("method",)
    columns: tuple[str, ...] = ("data.profile",)
    metrics: tuple[str, ...] = ("eval/knn/top1",)
    over: tuple[str, ...] = ("seed",)
    reference: str | None = None
    baseline: str | None = None
    confidence: float = 0.95
    detect: float = 1.0


@dataclass(frozen=True)
class ExperimentView:
    """One experiment as its file says.

    Attributes:
        file_text, file_path: the experiment file as it was submitted.
        extended: the texts of the files that it extends, by their paths from its folder.
        axes: names of the grid's axes, in file order.
    """

    name: str
    file_text: str
    file_path: Path
    axes: tuple[str, ...]
    report: ReportOptions = ReportOptions()
    tracking: TrackingOptions = TrackingOptions()
    extended: Mapping[str, str] = field(default_factory=dict)


def _speaking(axis: str, label: str) -> str:
    return label if any(character.isalpha() for character in label) else f"{axis.rpartition('.')[2]}={label}"
