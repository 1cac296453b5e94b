"""What a report consists of, as frozen values. Nothing here reads a file or knows how a table is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.runs import ReportOptions
from orchestrator.state import RunState


@dataclass(frozen=True)
class Setup:
    """What the papers' tables are keyed by, in their words (``papers.yaml``).

    Attributes:
        is_symmetric: whether both views are queries, where that is an option of the method.
        arch: network, such as ``resnet50`` or ``vit_small_16``.
        dataset: what is evaluated on, such as ``imagenet1k``.
        profile: ``balanced``, ``unbalanced``, ``long_tailed_100`` or ``long_tailed``; empty for one that no paper has.
        train_split: name of the list that is trained on, such as ``D1``; empty for no list.
        k, knn_temperature, knn_features: of the headline of k-NN.
    """

    method: str
    is_symmetric: bool | None
    arch: str
    epochs: int
    batch_size: int
    dataset: str
    profile: str
    train_split: str
    k: int | None = None
    knn_temperature: float | None = None
    knn_features: str = "backbone"


@dataclass(frozen=True)
class ReportedRun:
    """One run as the report sees it.

    Attributes:
        name: for people, unique within the experiment.
        labels: axis or setting -> label, for every one that the report groups by.
        backbone: name of the run's network.
        metrics, untrained: final values and the untrained encoder's, by metric; empty before the end.
        is_early: a search ended the run early, and ``metrics`` are its last evaluation's.
        setup: what to look for in a paper's table; None if the run has not been written down yet.
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
    setup: Setup | None = None


@dataclass(frozen=True)
class Estimate:
    """Mean of ``n`` values and their sample standard deviation (divisor n - 1; None for a single value)."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """Where a mean lies with some confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of ``n`` pairs, and what it is worth.

    Attributes:
        std: sample standard deviation of the differences; None for one pair.
        interval: of the mean difference; None for one pair, and where all differences are the same, which tells
            nothing of their spread.
        p: two-sided, of the paired t test; None where there is no interval, but 1 where all pairs are equal.
    """

    mean: float
    std: float | None
    n: int
    interval: Interval | None
    p: float | None


@dataclass(frozen=True)
class SeedsNeeded:
    """How many pairs a paired t test would need to show a certain difference.

    Attributes:
        about: if the true spread is the one that was seen.
        at_most: if it is at the upper limit of what the pairs seen allow.
    """

    about: int
    at_most: int


@dataclass(frozen=True)
class Reference:
    """What a paper prints where our table has a cell.

    Attributes:
        value: in percent.
        difference: our mean minus the paper's figure; None without our mean.
        interval: of the difference, from the spread of our runs alone; None where they tell nothing of it.
        note: number of the note that says what differs, from 1; None if nothing is known to.
    """

    value: float
    difference: float | None
    interval: Interval | None
    note: int | None


@dataclass(frozen=True)
class Cell:
    """One entry of the table.

    Attributes:
        estimate: over the runs that have the value; None if none has.
        expected: runs of the grid that belong here.
        without: state -> runs that belong here and have no value.
        is_early: the estimate is over runs that were stopped early, because none here was trained to its end.
        is_best: the best of its column, beyond noise.
        reference: the paper's figure, if the report asks for one and it has one.
    """

    estimate: Estimate | None
    expected: int
    without: Mapping[RunState, int] = field(default_factory=dict)
    is_early: bool = False
    is_best: bool = False
    reference: Reference | None = None


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
        return self._only(self.rows, [place for place, column in enumerate(self.columns) if column.group == group])

    @property
    def headline(self) -> Table:
        """The rows that stand for runs, with the columns of the first metric only."""
        kept = [place for place, column in enumerate(self.columns) if column.metric == self.metrics[0]]
        return self._only([row for row in self.rows if row.kind is RowKind.RUNS], kept)

    def _only(self, rows: Sequence[Row], kept: Sequence[int]) -> Table:
        return Table(
            self.rows_title,
            self.over,
            tuple(self.columns[place] for place in kept),
            tuple(Row(row.label, row.kind, tuple(row.cells[place] for place in kept)) for row in rows),
        )


@dataclass(frozen=True)
class Difference:
    """One row against another, within a column.

    Attributes:
        row, against: labels; the difference is ``row`` minus ``against``.
        paired: over the pairs; None without any.
        adjusted_p: the p value, adjusted for all tests of the column; None where there is no test.
        seeds: needed to see the difference that the report asks about; None where the spread is not known.
    """

    row: str
    against: str
    paired: PairedDifference | None
    adjusted_p: float | None
    seeds: SeedsNeeded | None


@dataclass(frozen=True)
class Comparison:
    """The rows of one column, compared.

    Attributes:
        best: label of the best row; None if nobody knows whether more is better, or there is nothing to compare.
        is_beyond_noise: every other row is worse than the best, by its adjusted p value.
        differences: of the other rows to the baseline, or to the best; empty where the baseline has no value.
        pairs: behind the comparison that has most of them, with the best or the baseline.
    """

    column: Column
    best: str | None
    is_beyond_noise: bool
    differences: tuple[Difference, ...]
    pairs: int


@dataclass(frozen=True)
class PaperTable:
    """The paper's table that a report is compared with.

    Attributes:
        name: such as ``isd/table5``.
        source: the paper, and where its figures were read.
        notes: what differs between a figure and our cell; a cell's note number counts from 1.
    """

    name: str
    source: str
    notes: tuple[str, ...]


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
        options: what the experiment file asks for.
        comparisons: of the rows, one for each column that has two rows or more to compare.
        paper: what is compared with; None if nothing is asked for.
    """

    name: str
    table: Table
    protocol: str
    panels: tuple[ClassPanel, ...]
    runs: tuple[ReportedRun, ...]
    notes: tuple[str, ...]
    options: ReportOptions = field(default_factory=ReportOptions)
    comparisons: tuple[Comparison, ...] = ()
    paper: PaperTable | None = None

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
    """A figure in three forms.

    Attributes:
        name: of its files, without ending.
        caption: what is drawn, in one or two sentences.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
    pdf: bytes = b""
