"""Figures of runs and of the report. matplotlib is imported on first use, numpy with the package."""

from orchestrator.figures.drawing import report_figures
from orchestrator.figures.single import run_figures

__all__ = ["report_figures", "run_figures"]
