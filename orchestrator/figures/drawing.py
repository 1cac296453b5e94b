"""Which figures a report has, and what stands below them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.errors import EnvironmentProblem
from orchestrator.figures.classes import MAX_NAMED, per_class_figure
from orchestrator.figures.groups import group_metrics, groups_figure
from orchestrator.figures.layers import layer_accuracies, layers_figure
from orchestrator.figures.lines import MAX_BANDS
from orchestrator.figures.networks import networks_figure, paired_protocols
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import Form, drawing
from orchestrator.figures.training import read_curves, training_figure, training_metrics
from orchestrator.report.model import DrawnFigure, Report
from orchestrator.runs import ExperimentView, RunView

_FORMS: tuple[Form, ...] = ("svg", "png", "pdf")


def report_figures(report: Report, experiment: ExperimentView, runs: Sequence[RunView]) -> list[DrawnFigure]:
    """Every figure that the runs have the numbers for.

    Args:
        runs: whose metrics files the curves are read from.

    Raises:
        EnvironmentProblem: a metrics file is damaged; the message names it.
    """
    with drawing():
        return list(_figures(report, experiment, runs))


def _figures(report: Report, experiment: ExperimentView, runs: Sequence[RunView]) -> Iterator[DrawnFigure]:
    placement = Placement.of(experiment, report)
    headline = experiment.report.metrics
    known = dict.fromkeys(metric for run in report.runs if not run.is_early for metric in run.metrics)
    try:
        curves = read_curves(placement, {run.run_id: run.run_dir for run in runs})
    except ValueError as error:
        raise EnvironmentProblem(str(error)) from error
    spread = "one sample standard deviation to each side"
    mean = f"Mean over {' and '.join(report.table.over) or 'runs'} ({_numbers(placement)})"
    # Of more rows no bands are drawn.
    banded = f"{mean}, with a band of {spread}" if len(placement.rows) <= MAX_BANDS else mean
    if report.panels:
        many = any(len(panel.classes) > MAX_NAMED for panel in report.panels)
        of_what = "bins of classes" if many else "each class"
        grey = "" if many else " Grey: training images of each class (right axis)."
        yield DrawnFigure(
            "per_class",
            "Accuracy against class frequency",
            f"Accuracy on {of_what}. {banded}.{grey} Dotted: chance.",
            *per_class_figure(report, placement, *_FORMS),
        )
    if thirds := group_metrics(report.table):
        yield DrawnFigure(
            "groups",
            "Many, medium and few",
            f"{mean} of the accuracy on each third of the classes, with {spread}. Dotted: chance.",
            *groups_figure(report.table, placement, thirds, *_FORMS),
        )
    if protocols := tuple(layer_accuracies(dict.fromkeys(known, 0.0))):
        yield DrawnFigure(
            "layers",
            "Accuracy by block",
            f"{banded}. The last block is the whole network.",
            *layers_figure(placement, protocols, *_FORMS),
        )
    if metrics := training_metrics(curves.values(), headline):
        yield DrawnFigure(
            "training",
            "Over the training",
            f"{banded}, at each epoch of as many runs as have got so far. A record of more points than can be told "
            "apart is drawn as its means over equal stretches.",
            *training_figure(placement, curves, metrics, *_FORMS),
        )
    if paired := paired_protocols(known, headline):
        yield DrawnFigure(
            "networks",
            "Teacher and student",
            f"Small: each run. Large: {mean[0].lower()}{mean[1:]}, with {spread}. On the dotted line both are equally "
            "good. Over the epochs, where measured: by how much the teacher is ahead.",
            *networks_figure(placement, curves, paired, *_FORMS),
        )


def _numbers(placement: Placement) -> str:
    """How many runs a mean is over: ``n = 3``, or ``n = 1 to 3`` where rows differ."""
    numbers = {len(placement.finished(row, group)) for row in placement.rows for group in placement.groups} - {0}
    if len(numbers) > 1:
        return f"n = {min(numbers)} to {max(numbers)}"
    return f"n = {numbers.pop()}" if numbers else "so far unfinished"
