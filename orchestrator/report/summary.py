"""From runs to the report. Pure, but for the papers' figures, which are read from the package."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from orchestrator.report.differences import compare
from orchestrator.report.grouping import cells_of
from orchestrator.report.model import Report, ReportedRun
from orchestrator.report.panels import class_panels
from orchestrator.report.reference import beside_paper
from orchestrator.report.table import table_of
from orchestrator.runs import ReportOptions

GROUPS = ("many", "medium", "few")
#: More names than this in one sentence are counted.
_MAX_NAMED = 12


def summarise(name: str, axes: Sequence[str], options: ReportOptions, runs: Sequence[ReportedRun]) -> Report:
    """The report on the runs of one experiment.

    Axes of the grid that the options do not mention join the rows: runs that differ in more than ``over`` are never
    averaged. Where the options ask for a ``.../top1``, its many, medium and few columns follow if the runs have them.

    Args:
        axes: names of the grid's axes.
        runs: in the order of the grid; labelled by all axes and by everything that the options name.

    Raises:
        InputError: no row has the label ``options.baseline``.
    """
    cells = cells_of(axes, options, runs)
    metrics = with_groups(options.metrics, runs)
    table, comparisons = compare(table_of(cells, options.over, metrics, runs), cells, options)
    paper = None
    if options.reference is not None:
        table, paper = beside_paper(table, cells, options.reference, options.confidence)
    protocol = protocol_of(options.metrics)
    panels = class_panels(cells.row_axes, options.columns, protocol, runs)
    return Report(
        name=name,
        table=table,
        protocol=protocol if panels else "",
        panels=panels,
        runs=tuple(runs),
        notes=tuple(_notes(metrics, runs)),
        options=options,
        comparisons=comparisons,
        paper=paper,
    )


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


def _notes(metrics: Sequence[str], runs: Sequence[ReportedRun]) -> Iterable[str]:
    known = {metric for run in runs for metric in run.metrics}
    unknown = [metric for metric in metrics if metric not in known]
    if known and unknown:
        yield f"No run has {', '.join(unknown)} (report.metrics). Measured are: {', '.join(sorted(known))}."
    early = sum(run.is_early for run in runs)
    if early:
        yield (
            f"† {early} of {len(runs)} runs were stopped early by the search. Their last evaluation stands where no "
            "run of a cell was trained to its end, and counts nowhere else."
        )
    infinite = [run.name for run in runs if any(not math.isfinite(run.metrics.get(metric, 0.0)) for metric in metrics)]
    if infinite:
        yield f"Values that are not finite: {_named(infinite)}."
    warned: dict[str, list[str]] = {}
    for run in runs:
        for warning in run.warnings:
            warned.setdefault(warning, []).append(run.name)
    for warning, names in warned.items():
        yield f"{_named(names)}: {warning}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
