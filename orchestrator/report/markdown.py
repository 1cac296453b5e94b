"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.report.model import DrawnFigure, Report, RowKind, Table
from orchestrator.report.wording import caption, cell_text, metric_titles


def markdown(report: Report, figures: Sequence[DrawnFigure] = ()) -> str:
    """The report in GitHub's Markdown. Figures are linked as PNG files beside it."""
    blocks = [f"# {escape(report.name)}", escape(caption(report)), markdown_table(report.table)]
    blocks += [f"*{escape(note)}*" for note in report.notes]
    if report.unfinished:
        rows = [[run.name, run.run_id, run.state.value, run.reason] for run in report.unfinished]
        blocks += [
            "## Runs without a result",
            _grid(["run", "id", "state", "reason"], (map(escape, row) for row in rows), "---"),
        ]
    for figure in figures:
        blocks += [
            f"## {escape(figure.title)}",
            f"![{escape(figure.title)}]({figure.name}.png)",
            escape(figure.caption),
        ]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """The table with one line of headings: group and metric together."""
    headings = [
        " ".join(part for part in (group, title) if part) for group in table.groups for title in metric_titles(table)
    ]
    rows = []
    for row in table.rows:
        label = escape(row.label) if row.kind is RowKind.RUNS else f"*{escape(row.label)}*"
        cells = (cell_text(cell, column.metric) for cell, column in zip(row.cells, table.columns, strict=True))
        rows.append([label, *map(escape, cells)])
    return _grid([table.rows_title, *headings], rows, "---:")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    for character in "\\|*_<>`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _grid(headings: Sequence[str], rows: Iterable[Iterable[str]], alignment: str) -> str:
    """A table of escaped cells; all columns but the first are aligned as the rule says."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = line(["---", *[alignment] * (len(headings) - 1)])
    return "\n".join([line(map(escape, headings)), rule, *map(line, rows)])
