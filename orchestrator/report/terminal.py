"""The report's table for a terminal: as wide as the terminal allows, and never cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.report.comparing import sentences
from orchestrator.report.model import Report, RowKind, Table
from orchestrator.report.wording import CellText, Line, caption, lines_of, metric_titles
from orchestrator.state import RunState

_MAX_REASONS = 3


def render_summary(report: Report, width: int) -> RenderableType:
    """The table, what must be known to read it, and its notes.

    Column groups stand side by side if they fit into ``width`` characters, else one below the other (long labels then
    wrap); where even one group is too wide, the table is turned: a line for each row and metric.
    """
    table = report.table
    parts: list[RenderableType] = [*_layout(table, width), Text(caption(report), style="dim")]
    parts += [Text(sentence, style="dim") for sentence in sentences(report)]
    parts += [Text(note, style="yellow") for note in (*report.notes, *_failures(report))]
    return Group(*parts)


def _failures(report: Report) -> Iterator[str]:
    """Why runs have no result, the most frequent reasons first."""
    reasons = Counter(run.reason for run in report.unfinished if run.state in (RunState.FAILED, RunState.LOST))
    for reason, count in reasons.most_common(_MAX_REASONS):
        yield f"{count} of {len(report.runs)} runs failed or were lost: {reason or 'no reason is known'}"
    others = sum(reasons.values()) - sum(count for _, count in reasons.most_common(_MAX_REASONS))
    if others:
        yield f"{others} more failed or were lost, for other reasons: report.md names them"


def _layout(table: Table, width: int) -> list[RenderableType]:
    whole = _wide(table)
    if _measure(whole).maximum <= width:
        return [whole]
    groups = [_wide(table.of_group(group)) for group in table.groups]
    if all(_measure(group).minimum <= width for group in groups):
        return [item for group in groups for item in (group, Text())]
    return [_turned(table)]


def _wide(table: Table) -> RichTable:
    """One line of headings; the group's name stands above its first metric. Only labels of rows may wrap."""
    drawn = _empty()
    drawn.add_column(table.rows_title)
    lines = list(lines_of(table))
    titles = metric_titles(table)
    for number, column in enumerate(table.columns):
        heading = (column.group if number % len(titles) == 0 else "", titles[number % len(titles)])
        longest = max(map(len, [*heading, *(line.texts[number].whole for line in lines)]))
        drawn.add_column("\n".join(heading), justify="right", no_wrap=True, min_width=longest)
    for line in lines:
        drawn.add_row(_label(line), *map(_shown, line.texts), style=_style(line))
    return drawn


def _turned(table: Table) -> RichTable:
    """A line for each row and metric: as narrow as a table can be."""
    drawn = _empty()
    for heading in (table.rows_title, "column", "metric", "value"):
        drawn.add_column(heading, overflow="fold")
    titles = dict(zip(table.metrics, metric_titles(table), strict=True))
    for line in lines_of(table):
        for column, text in zip(table.columns, line.texts, strict=True):
            if text.whole:
                drawn.add_row(_label(line), column.group, titles[column.metric], _shown(text), style=_style(line))
    return drawn


def _label(line: Line) -> str:
    return f"  {line.label}" if line.is_paper else line.label


def _style(line: Line) -> str:
    return "" if line.kind is RowKind.RUNS and not line.is_paper else "dim"


def _shown(text: CellText) -> Text:
    return Text.assemble((text.value, "bold" if text.is_bold else ""), f" {text.beside}" if text.beside else "")


def _empty() -> RichTable:
    return RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _measure(table: RichTable) -> Measurement:
    """Widths of the table, with every label wrapped and with none."""
    endless = Console(width=100_000)
    return Measurement.get(endless, endless.options, table)
