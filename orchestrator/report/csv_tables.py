"""The report as CSV files: a line for each value of a run, for each cell of the table, and for each difference."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from orchestrator.report.model import Cell, Difference, Interval, Report, RowKind


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
            "yes" if cell.is_best else "",
            *_paper(report, cell),
        ]
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    return _csv(["row", "kind", "column", "metric", "mean", "std", "n", "expected", "best_beyond_noise", *_PAPER], rows)


_PAPER = ("paper", "minus_paper", "minus_paper_low", "minus_paper_high", "paper_differs")


def _paper(report: Report, cell: Cell) -> tuple[str, ...]:
    """The paper's figure, our mean minus it with its interval, and what differs."""
    found = cell.reference
    if found is None or report.paper is None:
        return ("",) * len(_PAPER)
    note = "" if found.note is None else report.paper.notes[found.note - 1]
    return repr(found.value), _full(found.difference), *_ends(found.interval), note


_DIFFERENCES = ("column", "metric", "row", "against", "pairs", "difference", "std", "low", "high")


def differences_csv(report: Report) -> str:
    """One line for every row and column that was compared, in full precision."""
    rows = [
        [
            comparison.column.group,
            comparison.column.metric,
            item.row,
            item.against,
            *_paired(item),
            _full(item.adjusted_p),
            "" if item.seeds is None else item.seeds.about,
            "" if item.seeds is None else item.seeds.at_most,
        ]
        for comparison in report.comparisons
        for item in comparison.differences
    ]
    return _csv([*_DIFFERENCES, "p", "p_holm", "runs_needed", "runs_needed_at_most"], rows)


def _paired(item: Difference) -> tuple[object, ...]:
    paired = item.paired
    if paired is None:
        return 0, "", "", "", "", ""
    return paired.n, _full(paired.mean), _full(paired.std), *_ends(paired.interval), _full(paired.p)


def _ends(interval: Interval | None) -> tuple[str, str]:
    return ("", "") if interval is None else (repr(interval.low), repr(interval.high))


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
