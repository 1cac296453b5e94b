"""The report's table for a terminal: as wide as the terminal allows, and never cut."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.report.model import Report, RowKind, Table
from orchestrator.report.wording import caption, cell_text, metric_titles


def render_summary(report: Report, width: int) -> RenderableType:
    """The table, its caption and its notes.

    Column groups stand side by side if they fit into ``width`` characters, else one below the other, and turned by 90
    degrees (a line for each metric) where even one group is too wide.
    """
    table = report.table
    layouts = ([_wide(table)], [_wide(table.of_group(group)) for group in table.groups])
    parts: list[RenderableType] = next(
        (list(layout) for layout in layouts if max(map(_natural_width, layout)) <= width), [_turned(table)]
    )
    parts.append(Text(caption(report), style="dim"))
    parts += [Text(note, style="yellow") for note in report.notes]
    return Group(*parts)


def _wide(table: Table) -> RichTable:
    """One line of headings; the group's name stands above its first metric."""
    drawn = _empty()
    drawn.add_column(table.rows_title, no_wrap=True)
    for group in table.groups:
        for number, title in enumerate(metric_titles(table)):
            drawn.add_column(f"{group if number == 0 else ''}\n{title}", justify="right", no_wrap=True)
    for row in table.rows:
        cells = [cell_text(cell, column.metric) for cell, column in zip(row.cells, table.columns, strict=True)]
        drawn.add_row(row.label, *cells, style="" if row.kind is RowKind.RUNS else "dim")
    return drawn


def _turned(table: Table) -> RichTable:
    """A line for each row and metric: as narrow as a table can be."""
    drawn = _empty()
    for heading in (table.rows_title, "column", "metric", "value"):
        drawn.add_column(heading, overflow="fold")
    titles = dict(zip(table.metrics, metric_titles(table), strict=True))
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            drawn.add_row(row.label, column.group, titles[column.metric], cell_text(cell, column.metric))
    return drawn


def _empty() -> RichTable:
    return RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _natural_width(table: RichTable) -> int:
    from rich.console import Console

    endless = Console(width=100_000)
    return Measurement.get(endless, endless.options, table).maximum
