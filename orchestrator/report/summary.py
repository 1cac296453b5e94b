"""From runs to the report: who belongs into which cell, and the arithmetic. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from statistics import fmean, stdev

from orchestrator.report.model import (
    Cell,
    ClassPanel,
    Column,
    Curve,
    Estimate,
    Report,
    ReportedRun,
    Row,
    RowKind,
    Table,
)
from orchestrator.runs import ReportOptions

#: Last parts of the names of metrics that are shares of correct answers in percent.
ACCURACIES = ("top1", "top5", "class_mean", "many", "medium", "few", "class_std")
#: Those that guessing gets right one time in as many as there are classes.
_GUESSABLE = ("top1", "class_mean", "many", "medium", "few")
GROUPS = ("many", "medium", "few")


def summarise(name: str, axes: Sequence[str], options: ReportOptions, runs: Sequence[ReportedRun]) -> Report:
    """The report on the runs of one experiment.

    Axes of the grid that the options do not mention join the rows: runs that differ in more than ``over`` are never
    averaged. Where the options ask for a ``.../top1``, its many, medium and few columns follow if the runs have them.

    Args:
        axes: names of the grid's axes.
        runs: in the order of the grid; labelled by all axes and by everything that the options name.
    """
    row_axes = axes_of_rows(axes, options)
    metrics = with_groups(options.metrics, runs)
    table = _table(row_axes, options, metrics, runs)
    protocol = protocol_of(options.metrics)
    panels = _panels(row_axes, options, protocol, runs)
    return Report(name, table, protocol if panels else "", panels, tuple(runs), tuple(_notes(metrics, runs)))


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation; None of nothing."""
    known = list(values)
    if not known:
        return None
    return Estimate(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


def with_groups(metrics: Sequence[str], runs: Sequence[ReportedRun]) -> tuple[str, ...]:
    """The metrics, each ``.../top1`` followed by its many, medium and few where any run has them."""
    known = {metric for run in runs for metric in run.metrics}
    wanted: list[str] = []
    for metric in metrics:
        prefix, _, last = metric.rpartition("/")
        siblings = [f"{prefix}/{group}" for group in GROUPS] if last == "top1" else []
        wanted += [metric, *(sibling for sibling in siblings if sibling in known)]
    return tuple(dict.fromkeys(wanted))


def protocol_of(metrics: Sequence[str]) -> str:
    """The protocol behind the headline metric: ``eval/knn/top1`` is ``knn``."""
    parts = metrics[0].split("/") if metrics else []
    return parts[1] if len(parts) == 3 and parts[0] == "eval" else ""


def label_of(run: ReportedRun, axes: Sequence[str]) -> str:
    """The run's labels on some axes, in one."""
    return ", ".join(run.labels[axis] for axis in axes)


def axes_of_rows(axes: Sequence[str], options: ReportOptions) -> tuple[str, ...]:
    """What the rows differ in: the axes asked for, and those of the grid that nothing else takes."""
    placed = {*options.rows, *options.columns, *options.over}
    return tuple(dict.fromkeys([*options.rows, *(axis for axis in axes if axis not in placed)]))


# --- the table --------------------------------------------------------------------------------------------------------


def _table(
    row_axes: Sequence[str], options: ReportOptions, metrics: Sequence[str], runs: Sequence[ReportedRun]
) -> Table:
    groups = _distinct(runs, options.columns)
    columns = tuple(Column(group, metric) for group, metric in product(groups, metrics))
    rows = []
    for label in _distinct(runs, row_axes):
        in_row = [run for run in runs if label_of(run, row_axes) == label]
        rows.append(Row(label, RowKind.RUNS, tuple(_cell(in_row, options, column) for column in columns)))
    rows += _untrained_rows(options, columns, runs)
    rows += _chance_rows(options, columns, runs)
    return Table(" · ".join(row_axes), options.over, columns, tuple(rows))


def _cell(in_row: Iterable[ReportedRun], options: ReportOptions, column: Column) -> Cell:
    runs = [run for run in in_row if label_of(run, options.columns) == column.group]
    with_value = [run for run in runs if column.metric in run.metrics]
    # A run that was stopped early is no match for one that was not: it speaks only where nobody else does.
    in_full = [run for run in with_value if not run.is_early]
    measured = [run.metrics[column.metric] for run in in_full or with_value]
    missing = Counter(run.state for run in runs if column.metric not in run.metrics)
    return Cell(estimate(measured), len(runs), dict(missing), is_early=bool(with_value) and not in_full)


def _untrained_rows(options: ReportOptions, columns: Sequence[Column], runs: Sequence[ReportedRun]) -> list[Row]:
    """One row for each network: an untrained ViT and an untrained ResNet are not one number."""
    backbones = dict.fromkeys(run.backbone for run in runs if run.untrained)
    rows = []
    for backbone in backbones:
        label = f"untrained {backbone}" if len(backbones) > 1 else "untrained encoder"
        cells = tuple(_untrained(options, column, runs, backbone) for column in columns)
        if any(cell.estimate for cell in cells):
            rows.append(Row(label, RowKind.UNTRAINED, cells))
    return rows


def _untrained(options: ReportOptions, column: Column, runs: Sequence[ReportedRun], backbone: str) -> Cell:
    values = [
        run.untrained[column.metric]
        for run in runs
        if run.backbone == backbone
        and column.metric in run.untrained
        and label_of(run, options.columns) == column.group
    ]
    return Cell(estimate(values), len(values))


def _chance_rows(options: ReportOptions, columns: Sequence[Column], runs: Sequence[ReportedRun]) -> list[Row]:
    """Guessing among C classes is right in 100 / C percent, in every group of classes."""
    cells = []
    for column in columns:
        in_group = [run for run in runs if label_of(run, options.columns) == column.group]
        sizes = {len(run.class_counts) for run in in_group if run.class_counts}
        protocol, _, last = column.metric.rpartition("/")
        # Another data set has other classes.
        is_known = len(sizes) == 1 and last in _GUESSABLE and not protocol.startswith("eval/transfer_")
        cells.append(Cell(Estimate(100 / sizes.pop(), None, 0) if is_known else None, 0))
    return [Row("chance", RowKind.CHANCE, tuple(cells))] if any(cell.estimate for cell in cells) else []


def _distinct(runs: Iterable[ReportedRun], axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label_of(run, axes) for run in runs))


# --- accuracy by class ------------------------------------------------------------------------------------------------


def _panels(
    row_axes: Sequence[str], options: ReportOptions, protocol: str, runs: Sequence[ReportedRun]
) -> tuple[ClassPanel, ...]:
    measured = [run for run in runs if protocol in run.per_class and run.class_counts]
    panels = []
    for group in _distinct(measured, options.columns):
        members = [run for run in measured if label_of(run, options.columns) == group]
        first = members[0]
        classes = _by_frequency(first, measured)
        # Runs on other classes (two data sets in one column) cannot share an axis with the first.
        members = [run for run in members if set(run.class_counts) == set(classes)]
        curves = tuple(
            Curve(row, tuple(_class_estimate(members, row_axes, row, protocol, name) for name in classes))
            for row in _distinct(members, row_axes)
        )
        panels.append(
            ClassPanel(
                group,
                classes,
                tuple(first.class_counts[name] for name in classes),
                tuple(first.groups[name] for name in classes) if set(classes) <= set(first.groups) else (),
                curves,
                100 / len(classes),
            )
        )
    return tuple(panels)


def _by_frequency(run: ReportedRun, runs: Iterable[ReportedRun]) -> tuple[str, ...]:
    """The run's classes, most frequent first as in the most imbalanced run on the same classes.

    So every panel has one order, and a balanced panel can be read beside its long-tailed partner.
    """
    partners = [other for other in runs if set(other.class_counts) == set(run.class_counts)]
    counts = max(partners, key=_imbalance).class_counts
    return tuple(sorted(counts, key=lambda name: -counts[name]))


def _imbalance(run: ReportedRun) -> float:
    return max(run.class_counts.values()) / max(1, min(run.class_counts.values()))


def _class_estimate(
    runs: Iterable[ReportedRun], row_axes: Sequence[str], row: str, protocol: str, class_name: str
) -> Estimate | None:
    return estimate(
        run.per_class[protocol][class_name]
        for run in runs
        if label_of(run, row_axes) == row and class_name in run.per_class[protocol]
    )


# --- notes ------------------------------------------------------------------------------------------------------------


def _notes(metrics: Sequence[str], runs: Sequence[ReportedRun]) -> Iterable[str]:
    known = {metric for run in runs for metric in run.metrics}
    unknown = [metric for metric in metrics if metric not in known]
    if known and unknown:
        yield f"No run has {', '.join(unknown)}. Measured are: {', '.join(sorted(known))}."
    early = sum(run.is_early for run in runs)
    if early:
        yield (
            f"† {early} of {len(runs)} runs were stopped early by the search. Their last evaluation stands where no "
            "run of a cell was trained to its end, and counts nowhere else."
        )
    infinite = [run.name for run in runs if any(not math.isfinite(run.metrics.get(metric, 0.0)) for metric in metrics)]
    if infinite:
        yield f"Values that are not finite: {', '.join(infinite)}."
    for warning in dict.fromkeys(warning for run in runs for warning in run.warnings):
        yield f"{', '.join(run.name for run in runs if warning in run.warnings)}: {warning}"
