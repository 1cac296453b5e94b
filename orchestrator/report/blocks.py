"""A table that is wider than a page, in parts that stand one below the other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from orchestrator.report.model import Table
from orchestrator.report.wording import Line, lines_of, metric_titles

#: Characters between two columns.
_GAP = 2


@dataclass(frozen=True)
class Block:
    """Columns that stand side by side.

    Attributes:
        groups: label of each column group, and how many of its columns are here.
        columns: their places among the table's columns.
        titles: the headings of the columns.
        lines: what stands in the columns; the paper's only where it has figures for them.
    """

    groups: tuple[tuple[str, int], ...]
    columns: range
    titles: tuple[str, ...]
    lines: tuple[Line, ...]


def blocks_of(table: Table, width: int) -> Iterator[Block]:
    """The table in parts of at most ``width`` characters, with the labels of the rows; never less than one column.

    The columns of a group stay together where there is room for them, else the metrics of a protocol.
    """
    lines = tuple(lines_of(table))
    titles = [*metric_titles(table)] * len(table.groups)
    widths = [
        _GAP
        + max(
            len(titles[place]),
            len(column.group) // len(table.metrics),
            *(len(line.texts[place].whole) for line in lines),
        )
        for place, column in enumerate(table.columns)
    ]
    room = width - label_width(table.rows_title, lines)
    parts: list[list[int]] = []
    for piece in _pieces(table, widths, room):
        if parts and _taken(parts[-1] + piece, widths) <= room:
            parts[-1] += piece
        else:
            parts.append(piece)
    for part in parts:
        columns = range(part[0], part[-1] + 1)
        groups = tuple((group, len(list(of))) for group, of in groupby(table.columns[place].group for place in columns))
        inside = (replace(line, texts=line.texts[part[0] : part[-1] + 1]) for line in lines)
        shown = tuple(line for line in inside if not line.is_paper or any(text.whole for text in line.texts))
        yield Block(groups, columns, tuple(titles[place] for place in columns), shown)


def label_width(title: str, lines: Sequence[Line]) -> int:
    """Characters that the labels of the rows take, with a heading that may stand in two lines."""
    labels = max((len(line.label) for line in lines), default=0)
    return max(labels, *map(len, heading_lines(title, labels)))


def heading_lines(title: str, width: int) -> tuple[str, str]:
    """The heading of the rows in two lines, of which the second is filled first, up to ``width`` characters."""
    names = title.split(" · ")
    first = len(names) - 1
    while first and len(" · ".join(names[first - 1 :])) <= width:
        first -= 1
    return " · ".join([*names[:first], ""]).rstrip() if first else "", " · ".join(names[first:])


def _pieces(table: Table, widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Neighbouring columns that are to stay together and fit into ``room``, or are alone."""
    for _, of_group in groupby(range(len(table.columns)), lambda place: table.columns[place].group):
        group = list(of_group)
        if _taken(group, widths) <= room:
            yield group
            continue
        for _, of_stem in groupby(group, lambda place: table.columns[place].metric.rpartition("/")[0]):
            stem = list(of_stem)
            yield from [stem] if _taken(stem, widths) <= room else ([place] for place in stem)


def _taken(columns: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[place] for place in columns)
