"""The report as one self-contained HTML page: no script, nothing fetched, figures inside, readable on paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files

from orchestrator.report.blocks import blocks_of
from orchestrator.report.comparing import listings, sentences
from orchestrator.report.markdown import MOST_UNFINISHED
from orchestrator.report.model import DrawnFigure, Report
from orchestrator.report.wording import caption

#: Characters of a table that a screen and a page are wide enough for.
_WIDTH = 150


def html(report: Report, figures: Sequence[DrawnFigure] = ()) -> str:
    """The page, with the figures as SVG inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("templates/page.html.j2").read_text("utf-8"))
    table = report.table
    return template.render(
        report=report,
        table=table,
        caption=caption(report),
        blocks=list(blocks_of(table, _WIDTH)),
        sentences=sentences(report),
        listings=listings(report),
        unfinished=report.unfinished[:MOST_UNFINISHED],
        figures=[
            {
                "title": figure.title,
                "caption": figure.caption,
                "source": f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}",
            }
            for figure in figures
        ],
    )
