"""The report as two CSV files: one line a run, and one line a cell of the table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from orchestrator.report.model import Report, RowKind


def runs_csv(report: Report) -> str:
    """One line for every run and metric; a run without a result has one line without a metric. For pandas and R."""
    axes = list(report.runs[0].labels) if report.runs else []
    rows = []
    for run in report.runs:
        head = [run.run_id, *(run.labels[axis] for axis in axes), run.state.value, run.reason]
        values = [*run.metrics.items(), *((f"untrained/{key}", value) for key, value in run.untrained.items())]
        rows += [[*head, metric, repr(value)] for metric, value in values] or [[*head, "", ""]]
    return _csv(["run_id", *axes, "state", "reason", "metric", "value"], rows)


def summary_csv(report: Report) -> str:
    """One line for every cell of the table, in full precision."""
    table = report.table
    rows = [
        [
            row.label,
            row.kind.value,
            column.group,
            column.metric,
            "" if cell.estimate is None else repr(cell.estimate.mean),
            "" if cell.estimate is None or cell.estimate.std is None else repr(cell.estimate.std),
            0 if cell.estimate is None else cell.estimate.n,
            cell.expected if row.kind is RowKind.RUNS else "",
        ]
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    return _csv(["row", "kind", "column", "metric", "mean", "std", "n", "expected"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
