"""Writing the report's files into one folder."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import EnvironmentProblem
from orchestrator.report.csv_tables import runs_csv, summary_csv
from orchestrator.report.html import html
from orchestrator.report.markdown import markdown
from orchestrator.report.model import DrawnFigure, Report
from trainers.rundir import atomic


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write Markdown, HTML, two CSV files and the figures; each file replaces an older one whole.

    Returns:
        The files, ``report.md`` first.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    figures = _figures(report)
    contents: dict[str, bytes] = {
        "report.md": markdown(report, figures).encode(),
        "report.html": html(report, figures).encode(),
        "summary.csv": summary_csv(report).encode(),
        "runs.csv": runs_csv(report).encode(),
    }
    for figure in figures:
        contents |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            atomic.write_bytes(folder / name, data)
    except OSError as error:
        raise EnvironmentProblem(
            f"report folder {folder} cannot be written ({error.strerror or error}); name another with --output"
        ) from error
    return [folder / name for name in contents]


def _figures(report: Report) -> list[DrawnFigure]:
    """Every figure that the runs have the numbers for. Imports matplotlib."""
    if not report.completed:
        return []
    from orchestrator.report.figures import group_metrics, groups_figure, per_class_figure

    over = " and ".join(report.table.over) or "runs"
    figures = []
    if report.panels:
        figures.append(
            DrawnFigure(
                "per_class",
                "Accuracy against class frequency",
                f"Mean over {over}, with a band of one sample standard deviation to each side. "
                "Grey bars: training images of each class (right axis). Dotted: chance.",
                per_class_figure(report, "svg"),
                per_class_figure(report, "png"),
            )
        )
    metrics = group_metrics(report.table)
    if metrics:
        figures.append(
            DrawnFigure(
                "groups",
                "Many, medium and few",
                f"Mean over {over} of the accuracy on each third of the classes, with one sample standard deviation.",
                groups_figure(report.table, metrics, "svg"),
                groups_figure(report.table, metrics, "png"),
            )
        )
    return figures
