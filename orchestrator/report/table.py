"""The table: what each cell says of its runs, and the rows that stand for no runs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

from orchestrator.report.grouping import Cells
from orchestrator.report.metrics import measure_of
from orchestrator.report.model import Cell, Column, Estimate, ReportedRun, Row, RowKind, Table
from orchestrator.report.statistics import estimate


def table_of(cells: Cells, over: tuple[str, ...], metrics: Sequence[str], runs: Sequence[ReportedRun]) -> Table:
    """A row for each label of the row axes, then the untrained encoders and chance where they are known.

    Args:
        over: names of the axes that are averaged.
    """
    columns = tuple(Column(group, metric) for group, metric in product(cells.groups, metrics))
    rows = [
        Row(label, RowKind.RUNS, tuple(_cell(cells.of(label, column.group), column.metric) for column in columns))
        for label in cells.rows
    ]
    rows += _untrained_rows(cells, columns, runs)
    rows += _chance_rows(cells, columns)
    return Table(" · ".join(cells.row_axes), over, columns, tuple(rows))


def _cell(runs: Sequence[ReportedRun], metric: str) -> Cell:
    with_value = [run for run in runs if metric in run.metrics]
    # A run that was stopped early is no match for one that was not: it speaks only where nobody else does.
    in_full = [run for run in with_value if not run.is_early]
    measured = [run.metrics[metric] for run in in_full or with_value]
    missing = Counter(run.state for run in runs if metric not in run.metrics)
    return Cell(estimate(measured), len(runs), dict(missing), is_early=bool(with_value) and not in_full)


def _untrained_rows(cells: Cells, columns: Sequence[Column], runs: Iterable[ReportedRun]) -> list[Row]:
    """One row for each network: an untrained ViT and an untrained ResNet are not one number."""
    backbones = dict.fromkeys(run.backbone for run in runs if run.untrained)
    rows = []
    for backbone in backbones:
        label = f"untrained {backbone}" if len(backbones) > 1 else "untrained encoder"
        row = tuple(_untrained(cells.by_group[column.group], column.metric, backbone) for column in columns)
        if any(cell.estimate for cell in row):
            rows.append(Row(label, RowKind.UNTRAINED, row))
    return rows


def _untrained(runs: Iterable[ReportedRun], metric: str, backbone: str) -> Cell:
    values = [run.untrained[metric] for run in runs if run.backbone == backbone and metric in run.untrained]
    return Cell(estimate(values), len(values))


def _chance_rows(cells: Cells, columns: Sequence[Column]) -> list[Row]:
    """Guessing among C classes is right in 100 / C percent, in every group of classes."""
    sizes = {
        group: {len(run.class_counts) for run in runs if run.class_counts} for group, runs in cells.by_group.items()
    }
    row = tuple(_chance(sizes[column.group], column.metric) for column in columns)
    return [Row("chance", RowKind.CHANCE, row)] if any(cell.estimate for cell in row) else []


def _chance(sizes: set[int], metric: str) -> Cell:
    # Another data set has other classes.
    is_known = len(sizes) == 1 and measure_of(metric).is_guessable and not metric.startswith("eval/transfer_")
    return Cell(Estimate(100 / min(sizes), None, 0) if is_known else None, 0)
