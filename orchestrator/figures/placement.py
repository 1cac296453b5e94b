"""Which runs belong to which row and column group, for figures of what the report's table does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from orchestrator.figures.style import short_labels
from orchestrator.report.grouping import Cells, cells_of
from orchestrator.report.model import Report, ReportedRun
from orchestrator.runs import ExperimentView


@dataclass(frozen=True)
class Placement:
    """Runs by row and column group, as the table has them.

    Attributes:
        names: row -> its label as drawn, which may be shorter.
    """

    cells: Cells
    names: Mapping[str, str]

    @classmethod
    def of(cls, experiment: ExperimentView, report: Report) -> Placement:
        """Of all runs of a report."""
        cells = cells_of(experiment.axes, experiment.report, report.runs)
        return cls(cells, dict(zip(cells.rows, short_labels(cells.rows), strict=True)))

    @property
    def rows(self) -> tuple[str, ...]:
        """Labels in the order of the table. A row's number gives it its look, the same in every figure."""
        return self.cells.rows

    @property
    def groups(self) -> tuple[str, ...]:
        """Labels of the column groups, in the order of the table."""
        return self.cells.groups

    def finished(self, row: str, group: str) -> list[ReportedRun]:
        """The runs there that were trained to their end and evaluated."""
        return [run for run in self.cells.of(row, group) if run.metrics and not run.is_early]

    def panels(self, of: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Each of some things with each group, in the order of panels."""
        return product(of, self.groups)
