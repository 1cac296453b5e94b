"""What a report consists of, as frozen values. Nothing here reads a file or knows how a table is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.state import RunState


@dataclass(frozen=True)
class ReportedRun:
    """One run as the report sees it.

    Attributes:
        name: for people, unique within the experiment.
        labels: axis or setting -> label, for every one that the report groups by.
        backbone: name of the run's network.
        metrics, untrained: final values and the untrained encoder's, by metric; empty before the end.
        is_early: a search ended the run early, and ``metrics`` are its last evaluation's.
        per_class: protocol -> class name -> accuracy in percent.
        class_counts: class name -> training images, in class order.
        groups: class name -> ``many``, ``medium`` or ``few``.
        warnings: what the run itself says about its numbers, one sentence each.
    """

    run_id: str
    name: str
    labels: Mapping[str, str]
    state: RunState
    reason: str = ""
    backbone: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    untrained: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    class_counts: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    is_early: bool = False


@dataclass(frozen=True)
class Estimate:
    """Mean of ``n`` values and their sample standard deviation (divisor n - 1; None for a single value)."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Cell:
    """One entry of the table.

    Attributes:
        estimate: over the runs that have the value; None if none has.
        expected: runs of the grid that belong here.
        without: state -> runs that belong here and have no value.
        is_early: the estimate is over runs that were stopped early, because none here was trained to its end.
    """

    estimate: Estimate | None
    expected: int
    without: Mapping[RunState, int] = field(default_factory=dict)
    is_early: bool = False


class RowKind(StrEnum):
    """What a row of the table stands for."""

    RUNS = "runs"
    UNTRAINED = "untrained"
    CHANCE = "chance"


@dataclass(frozen=True)
class Row:
    """A line of the table: its label, and one cell for each column."""

    label: str
    kind: RowKind
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A column of the table: runs of one ``group`` (labels of the column axes), measured by one metric."""

    group: str
    metric: str


@dataclass(frozen=True)
class Table:
    """Rows by columns. Columns of a group stand together; every group has the same metrics in the same order.

    Attributes:
        rows_title: names of the row axes, such as ``method``.
        over: names of the axes that are averaged.
    """

    rows_title: str
    over: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """Labels of the column groups, in order."""
        return tuple(dict.fromkeys(column.group for column in self.columns))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of each group, in order."""
        return tuple(dict.fromkeys(column.metric for column in self.columns))

    def of_group(self, group: str) -> Table:
        """The same rows with the columns of one group only."""
        kept = [number for number, column in enumerate(self.columns) if column.group == group]
        return Table(
            self.rows_title,
            self.over,
            tuple(self.columns[number] for number in kept),
            tuple(Row(row.label, row.kind, tuple(row.cells[number] for number in kept)) for row in self.rows),
        )


@dataclass(frozen=True)
class Curve:
    """Accuracy of one row of the table, class by class: an estimate for each class of the panel, None if unmeasured."""

    label: str
    estimates: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class ClassPanel:
    """Accuracy against class frequency, for the runs of one column group.

    Attributes:
        classes: names, most frequent first.
        counts: training images of each.
        groups: ``many``, ``medium`` or ``few`` of each; empty if the runs do not say.
        chance: accuracy of guessing, in percent.
    """

    group: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    groups: tuple[str, ...]
    curves: tuple[Curve, ...]
    chance: float


@dataclass(frozen=True)
class Report:
    """Everything that the writers need.

    Attributes:
        protocol: what the class panels measure, such as ``knn``; empty without panels.
        runs: every run of the experiment, in the order of the grid.
        notes: sentences that the reader must know to read the table.
    """

    name: str
    table: Table
    protocol: str
    panels: tuple[ClassPanel, ...]
    runs: tuple[ReportedRun, ...]
    notes: tuple[str, ...]

    @property
    def completed(self) -> int:
        """Runs with a result."""
        return sum(run.state is RunState.COMPLETED and not run.is_early for run in self.runs)

    @property
    def ended_early(self) -> int:
        """Runs that a search ended before their last step."""
        return sum(run.is_early for run in self.runs)

    @property
    def unfinished(self) -> tuple[ReportedRun, ...]:
        """Runs without a result, in the order of the grid."""
        return tuple(run for run in self.runs if run.state is not RunState.COMPLETED)


@dataclass(frozen=True)
class DrawnFigure:
    """A figure in two forms.

    Attributes:
        name: of its files, without ending.
        caption: what is drawn, in one or two sentences.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
