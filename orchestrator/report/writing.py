"""Writing the report's files into one folder."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import EnvironmentProblem
from orchestrator.report.csv_tables import runs_csv, summary_csv
from orchestrator.report.html import html
from orchestrator.report.markdown import markdown
from orchestrator.report.model import Report
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
        "report.md": markdown(report, [(title, f"{name}.png") for name, title, _, _ in figures]).encode(),
        "report.html": html(report, [(title, svg) for _, title, svg, _ in figures]).encode(),
        "summary.csv": summary_csv(report).encode(),
        "runs.csv": runs_csv(report).encode(),
    }
    for name, _, svg, png in figures:
        contents |= {f"{name}.svg": svg, f"{name}.png": png}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            atomic.write_bytes(folder / name, data)
    except OSError as error:
        raise EnvironmentProblem(
            f"report folder {folder} cannot be written ({error.strerror or error}); name another with --output"
        ) from error
    return [folder / name for name in contents]


def _figures(report: Report) -> list[tuple[str, str, bytes, bytes]]:
    """File name, title, SVG and PNG of every figure that the runs have the numbers for. Imports matplotlib."""
    if not report.completed:
        return []
    from orchestrator.report.figures import group_metrics, groups_figure, per_class_figure

    figures = []
    if report.panels:
        svg, png = per_class_figure(report, "svg"), per_class_figure(report, "png")
        figures.append(("per_class", "Accuracy against class frequency", svg, png))
    metrics = group_metrics(report.table)
    if metrics:
        svg, png = groups_figure(report.table, metrics, "svg"), groups_figure(report.table, metrics, "png")
        figures.append(("groups", "Many, medium and few", svg, png))
    return figures
