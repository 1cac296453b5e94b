"""Rows against rows: differences within a column, paired over what is averaged, and which row is best. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import InputError
from orchestrator.report.grouping import Cells, label_of
from orchestrator.report.metrics import measure_of
from orchestrator.report.model import Column, Comparison, Difference, ReportedRun, Row, RowKind, Table
from orchestrator.report.statistics import holm, paired_difference, seeds_needed
from orchestrator.runs import ReportOptions

#: Labels on the axes of ``over`` -> the value of the one run that has them.
Paired = Mapping[str, float]

_MAX_NAMED = 12


def compare(table: Table, cells: Cells, options: ReportOptions) -> tuple[Table, tuple[Comparison, ...]]:
    """Compare the rows of every column, and mark the best where it is beyond noise.

    Runs are paired that have the same labels on the axes of ``options.over`` (the same seed), and only runs that were
    trained to their end. Each row is compared with ``options.baseline``, or without one with the best of the column.

    Raises:
        InputError: no row has the label ``options.baseline``.
    """
    check_baseline(cells.rows, options.baseline)
    comparisons = {
        number: comparison
        for number in range(len(table.columns))
        if (comparison := _compare_column(table, number, cells, options)) is not None
    }
    rows = tuple(
        replace(
            row,
            cells=tuple(
                replace(cell, is_best=_is_best(comparisons.get(number), row)) for number, cell in enumerate(row.cells)
            ),
        )
        for row in table.rows
    )
    return replace(table, rows=rows), tuple(comparisons.values())


def check_baseline(rows: Sequence[str], baseline: str | None) -> None:
    """Refuse a baseline that is no row.

    Raises:
        InputError: with the rows that there are.
    """
    if baseline is None or baseline in rows or not rows:
        return
    close = difflib.get_close_matches(baseline, rows, n=1)
    more = f", … ({len(rows)} in all)" if len(rows) > _MAX_NAMED else ""
    raise InputError(
        f"report.baseline: no row is called {baseline!r}"
        + (f"; did you mean {close[0]!r}?" if close else ".")
        + f" The rows are: {', '.join(map(repr, rows[:_MAX_NAMED]))}{more}"
    )


def _is_best(comparison: Comparison | None, row: Row) -> bool:
    return (
        comparison is not None
        and comparison.is_beyond_noise
        and row.kind is RowKind.RUNS
        and row.label == comparison.best
    )


def _compare_column(table: Table, number: int, cells: Cells, options: ReportOptions) -> Comparison | None:
    """The comparison of one column; None where fewer than two rows have a value, or nothing to compare with."""
    column = table.columns[number]
    means = {
        row.label: cell.estimate.mean
        for row in table.rows
        if row.kind is RowKind.RUNS
        and (cell := row.cells[number]).estimate is not None
        and not cell.is_early
        and math.isfinite(cell.estimate.mean)
    }
    if len(means) < 2:
        return None
    values = {row: _paired(cells.of(row, column.group), column.metric, options.over) for row in means}
    sign = measure_of(column.metric).better.value
    best = max(means, key=lambda row: sign * means[row]) if sign else None
    to_best = _against(best, values, column, options) if best is not None else ()
    is_beyond_noise = bool(to_best) and all(
        item.adjusted_p is not None and item.adjusted_p < 1 - options.confidence for item in to_best
    )
    against = options.baseline if options.baseline is not None else best
    if against not in means:
        differences: tuple[Difference, ...] = ()
    else:
        differences = to_best if against == best else _against(against, values, column, options)
    pairs = max((item.paired.n for item in (*to_best, *differences) if item.paired is not None), default=0)
    return Comparison(column, best, is_beyond_noise, differences, pairs)


def _against(
    against: str, values: Mapping[str, Paired], column: Column, options: ReportOptions
) -> tuple[Difference, ...]:
    """Every other row minus one, with p values adjusted for all of them."""
    found = [_difference(row, against, values, column, options) for row in values if row != against]
    tested = [number for number, item in enumerate(found) if item.paired is not None and item.paired.p is not None]
    adjusted = holm([item.paired.p for item in found if item.paired is not None and item.paired.p is not None])
    for number, p in zip(tested, adjusted, strict=True):
        found[number] = replace(found[number], adjusted_p=p)
    return tuple(found)


def _difference(
    row: str, against: str, values: Mapping[str, Paired], column: Column, options: ReportOptions
) -> Difference:
    ours, theirs = values[row], values[against]
    shared = [key for key in ours if key in theirs]
    if not shared:
        return Difference(row, against, None, None, None)
    paired = paired_difference([ours[key] for key in shared], [theirs[key] for key in shared], options.confidence)
    seeds = None
    if paired.interval is not None and paired.std is not None and measure_of(column.metric).is_percent:
        seeds = seeds_needed(paired.std, paired.n, options.detect, options.confidence)
    return Difference(row, against, paired, None, seeds)


def _paired(runs: Sequence[ReportedRun], metric: str, over: Sequence[str]) -> Paired:
    """The value of each run by its labels on ``over``; of several runs with the same ones, none is anybody's pair."""
    values: dict[str, float] = {}
    ambiguous = set()
    for run in runs:
        value = run.metrics.get(metric)
        if value is None or run.is_early or not math.isfinite(value):
            continue
        key = label_of(run, over)
        if key in values:
            ambiguous.add(key)
        values[key] = value
    return {key: value for key, value in values.items() if key not in ambiguous}
