"""Which runs stand together: by their labels on the axes of the rows, of the columns, and of what is averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.model import ReportedRun
from orchestrator.runs import ReportOptions


def label_of(run: ReportedRun, axes: Sequence[str]) -> str:
    """The run's labels on some axes, in one."""
    return ", ".join(run.labels[axis] for axis in axes)


def axes_of_rows(axes: Sequence[str], options: ReportOptions) -> tuple[str, ...]:
    """What the rows differ in: the axes asked for, and those of the grid that nothing else takes."""
    placed = {*options.rows, *options.columns, *options.over}
    return tuple(dict.fromkeys([*options.rows, *(axis for axis in axes if axis not in placed)]))


def grouped(runs: Iterable[ReportedRun], axes: Sequence[str]) -> dict[str, list[ReportedRun]]:
    """The runs by their label on some axes, in the order in which each label comes first."""
    groups: dict[str, list[ReportedRun]] = {}
    for run in runs:
        groups.setdefault(label_of(run, axes), []).append(run)
    return groups


@dataclass(frozen=True)
class Cells:
    """The runs of every place of the table.

    Attributes:
        row_axes: names of the axes that the rows differ in.
        rows, groups: labels of the rows and of the column groups, in the order of the grid.
        by_place: (row, group) -> runs.
        by_group: group -> runs of all rows.
    """

    row_axes: tuple[str, ...]
    rows: tuple[str, ...]
    groups: tuple[str, ...]
    by_place: Mapping[tuple[str, str], Sequence[ReportedRun]]
    by_group: Mapping[str, Sequence[ReportedRun]]

    def of(self, row: str, group: str) -> Sequence[ReportedRun]:
        """The runs at one place; none where the grid has none."""
        return self.by_place.get((row, group), ())


def cells_of(axes: Sequence[str], options: ReportOptions, runs: Sequence[ReportedRun]) -> Cells:
    """Sort the runs into places. Runs that differ in more than ``options.over`` are never at one place.

    Args:
        axes: names of the grid's axes.
        runs: in the order of the grid; labelled by all axes and by everything that the options name.
    """
    row_axes = axes_of_rows(axes, options)
    by_row, by_group = grouped(runs, row_axes), grouped(runs, options.columns)
    by_place = {
        (row, group): members
        for row, of_row in by_row.items()
        for group, members in grouped(of_row, options.columns).items()
    }
    return Cells(row_axes, tuple(by_row), tuple(by_group), by_place, by_group)
