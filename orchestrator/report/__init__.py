"""The report: an experiment's results as tables and figures. matplotlib and jinja2 are imported on first use."""

from orchestrator.report.markdown import markdown_note
from orchestrator.report.model import Report
from orchestrator.report.reading import build_report
from orchestrator.report.terminal import render_summary
from orchestrator.report.writing import write_report

__all__ = ["Report", "build_report", "markdown_note", "render_summary", "write_report"]
