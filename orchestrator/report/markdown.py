"""The report as Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.report.comparing import listings, sentences
from orchestrator.report.model import DrawnFigure, Report, RowKind, Table
from orchestrator.report.wording import CellText, caption, lines_of, metric_titles

#: Runs without a result beyond which they are counted.
MOST_UNFINISHED = 200


def markdown(report: Report, figures: Sequence[DrawnFigure] = ()) -> str:
    """The report in GitHub's Markdown. Figures are linked as PNG files beside it."""
    blocks = [f"# {escape(report.name)}", *_blocks(report)]
    for figure in figures:
        blocks += [
            f"## {escape(figure.title)}",
            f"![{escape(figure.title)}]({figure.name}.png)",
            escape(figure.caption),
        ]
    return "\n\n".join(blocks) + "\n"


def markdown_note(report: Report) -> str:
    """The report for a page that has a title, shows no files, and of a long text at first only a few lines.

    It begins with the headline metric of the rows that stand for runs, and has neither heading nor figures.
    """
    headline = [markdown_table(report.table.headline), "All metrics:"] if len(report.table.metrics) > 1 else []
    return "\n\n".join([*headline, *_blocks(report)])


def _blocks(report: Report) -> Iterator[str]:
    yield markdown_table(report.table)
    yield escape(caption(report))
    yield from map(escape, sentences(report))
    yield from (f"*{escape(note)}*" for note in report.notes)
    for listing in listings(report):
        alignment = ["---"] * listing.left + ["---:"] * (len(listing.headings) - listing.left)
        yield f"## {listing.title}"
        yield _grid(listing.headings, (map(escape, line) for line in listing.lines), alignment)
        yield escape(listing.about)
    if report.unfinished:
        rows = [[run.name, run.run_id, run.state.value, run.reason] for run in report.unfinished[:MOST_UNFINISHED]]
        yield "## Runs without a result"
        yield _grid(["run", "id", "state", "reason"], (map(escape, row) for row in rows), ["---"] * 4)
        yield from (f"… and {more} more" for more in [len(report.unfinished) - len(rows)] if more)


def markdown_table(table: Table) -> str:
    """The table with one line of headings: group and metric together."""
    headings = [
        " ".join(part for part in (group, title) if part) for group in table.groups for title in metric_titles(table)
    ]
    rows = []
    for line in lines_of(table):
        is_plain = line.kind is RowKind.RUNS and not line.is_paper
        label = escape(line.label) if is_plain else f"*{escape(line.label)}*"
        rows.append([label, *map(_cell, line.texts)])
    return _grid([table.rows_title, *headings], rows, ["---", *["---:"] * len(headings)])


def _cell(text: CellText) -> str:
    value = f"**{escape(text.value)}**" if text.is_bold else escape(text.value)
    return f"{value} {escape(text.beside)}".strip()


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    # Entities, because MLflow's pages trip over an escaped angle bracket and show all comments after it.
    text = html.escape(text, quote=False)
    for character in "\\|*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _grid(headings: Sequence[str], rows: Iterable[Iterable[str]], alignment: Sequence[str]) -> str:
    """A table of escaped cells; the rule says how each column is aligned."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(map(escape, headings)), line(alignment), *map(line, rows)])
