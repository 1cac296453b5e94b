"""Writing the report's files into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import EnvironmentProblem
from orchestrator.report.csv_tables import differences_csv, runs_csv, summary_csv
from orchestrator.report.html import html
from orchestrator.report.latex import latex
from orchestrator.report.markdown import markdown
from orchestrator.report.model import DrawnFigure, Report
from trainers.rundir import atomic


def write_report(report: Report, folder: Path, figures: Sequence[DrawnFigure] = ()) -> list[Path]:
    """Write Markdown, HTML, LaTeX, CSV files and each figure's three forms; a file replaces an older one whole.

    Returns:
        The files, ``report.md`` first.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    contents: dict[str, bytes] = {
        "report.md": markdown(report, figures).encode(),
        "report.html": html(report, figures).encode(),
        "report.tex": latex(report).encode(),
        "summary.csv": summary_csv(report).encode(),
        "differences.csv": differences_csv(report).encode(),
        "runs.csv": runs_csv(report).encode(),
    }
    for figure in figures:
        forms = {"svg": figure.svg, "png": figure.png, "pdf": figure.pdf}
        contents |= {f"{figure.name}.{form}": data for form, data in forms.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            atomic.write_bytes(folder / name, data)
    except OSError as error:
        raise EnvironmentProblem(
            f"report folder {folder} cannot be written ({error.strerror or error}); name another with --output"
        ) from error
    return [folder / name for name in contents]
