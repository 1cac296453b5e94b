"""How values, cells and headings read, the same in every form of the report."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.model import Cell, Report, Table
from orchestrator.report.summary import ACCURACIES
from orchestrator.state import RunState


def cell_text(cell: Cell, metric: str) -> str:
    """``71.2 ± 0.4 (3)``, with ``(2 of 3)`` where runs are missing; why, where all are; nothing where none belongs.

    A dagger marks the last evaluation of runs that were stopped early.
    """
    if cell.estimate is None:
        return state_counts(cell.without) if cell.expected else "–"
    text = number(cell.estimate.mean, metric)
    if cell.estimate.std is not None:
        text += f" ± {number(cell.estimate.std, metric)}"
    if cell.estimate.n < cell.expected:
        text = f"{text} ({cell.estimate.n} of {cell.expected})"
    elif cell.estimate.n:
        text = f"{text} ({cell.estimate.n})"
    return f"{text} †" if cell.is_early else text


def number(value: float, metric: str) -> str:
    """Accuracies in percent with one decimal, anything else with four significant digits."""
    return f"{value:.1f}" if metric.rpartition("/")[2] in ACCURACIES else f"{value:.4g}"


def state_counts(counts: Mapping[RunState, int]) -> str:
    """``failed: 2, running: 1``, in the order of the states; a completed run that lacks the value is not measured."""
    words = {RunState.COMPLETED: "not measured"}
    return ", ".join(f"{words.get(state, state.value)}: {counts[state]}" for state in RunState if counts.get(state))


def metric_titles(table: Table) -> tuple[str, ...]:
    """Short headings of the metrics: without the beginning that all of them share."""
    metrics = table.metrics
    shared = shared_prefix(table)
    return tuple(metric.removeprefix(shared) for metric in metrics)


def shared_prefix(table: Table) -> str:
    """What the names of all metrics begin with, up to a slash: ``eval/knn/``."""
    folders = [metric.rpartition("/")[0].split("/") for metric in table.metrics]
    shared: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared) + "/" if shared and shared[0] else ""


def caption(report: Report) -> str:
    """What the numbers are, in one or two sentences."""
    table = report.table
    what = shared_prefix(table).strip("/") or ", ".join(table.metrics)
    unit = ", in percent" if all(metric.rpartition("/")[2] in ACCURACIES for metric in table.metrics) else ""
    over = " and ".join(table.over) or "runs"
    return (
        f"{what}{unit}: mean ± sample standard deviation over {over} (number of runs). "
        f"{report.completed} of {len(report.runs)} runs are complete"
        + (f", {report.ended_early} were stopped early." if report.ended_early else ".")
    )
