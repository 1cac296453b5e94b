"""What can be known to be wrong with a report before there is anything to report."""

from __future__ import annotations

from orchestrator.errors import InputError
from orchestrator.experiment import Cell, Experiment
from orchestrator.report.differences import check_baseline
from orchestrator.report.grouping import axes_of_rows
from orchestrator.report.reading import setting_label
from orchestrator.runs import ReportOptions


def check_report(experiment: Experiment) -> None:
    """Refuse a baseline that no run of the experiment belongs to.

    With a search nothing is refused: its samples add runs, and may add rows.

    Raises:
        InputError: with the rows that there will be; or the runs are not valid.
    """
    section = experiment.report
    if section.baseline is None or experiment.search is not None:
        return
    options = ReportOptions(rows=section.rows, columns=section.columns, over=section.over)
    names = axes_of_rows(experiment.axes, options)
    rows = dict.fromkeys(", ".join(_label(cell, name) for name in names) for cell in experiment.cells())
    try:
        check_baseline(list(rows), section.baseline)
    except InputError as error:
        raise InputError(f"{experiment.path}: {error}") from None


def _label(cell: Cell, name: str) -> str:
    return cell.axes[name] if name in cell.axes else setting_label(cell.config.model_dump(mode="json"), name)
