"""The report as one self-contained HTML page: no script, nothing fetched, figures inside, readable on paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files

from orchestrator.report.model import DrawnFigure, Report, RowKind
from orchestrator.report.wording import caption, cell_text, metric_titles


def html(report: Report, figures: Sequence[DrawnFigure] = ()) -> str:
    """The page, with the figures as SVG inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("templates/page.html.j2").read_text("utf-8"))
    table = report.table
    per_group = len(table.metrics)
    return template.render(
        report=report,
        table=table,
        caption=caption(report),
        titles=metric_titles(table),
        per_group=per_group,
        rows=[
            {
                "label": row.label,
                "is_runs": row.kind is RowKind.RUNS,
                "cells": [
                    _split(cell_text(cell, column.metric))
                    for cell, column in zip(row.cells, table.columns, strict=True)
                ],
            }
            for row in table.rows
        ],
        figures=[
            {
                "title": figure.title,
                "caption": figure.caption,
                "source": f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}",
            }
            for figure in figures
        ],
    )


def _split(text: str) -> tuple[str, str]:
    """The value of a cell, and the number of runs behind it, which is set smaller."""
    value, opening, runs = text.partition(" (")
    return value, opening.strip() + runs
