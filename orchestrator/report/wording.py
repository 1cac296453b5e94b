"""How values, cells, lines and headings read, the same in every form of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.report.metrics import measure_of
from orchestrator.report.model import Cell, Column, Interval, Reference, Report, RowKind, Table
from orchestrator.state import RunState


@dataclass(frozen=True)
class CellText:
    """What a cell says: the value, and smaller beside it where it comes from."""

    value: str
    beside: str = ""
    is_bold: bool = False

    @property
    def whole(self) -> str:
        """Both in one."""
        return " ".join(part for part in (self.value, self.beside) if part)


@dataclass(frozen=True)
class Line:
    """A line of the printed table. The paper's figures make a line of their own below that of our runs.

    Attributes:
        kind: of the row.
        is_paper: the line holds the paper's figures.
    """

    label: str
    kind: RowKind
    texts: tuple[CellText, ...]
    is_paper: bool = False


def lines_of(table: Table) -> Iterator[Line]:
    """The table as it is printed, line by line."""
    for row in table.rows:
        cells = list(zip(table.columns, row.cells, strict=True))
        yield Line(row.label, row.kind, tuple(text_of(cell, column.metric) for column, cell in cells))
        if any(cell.reference is not None for cell in row.cells):
            yield Line(
                "paper", row.kind, tuple(paper_text(cell.reference, column.metric) for column, cell in cells), True
            )


def text_of(cell: Cell, metric: str) -> CellText:
    """``71.2 ± 0.4`` and ``(3)``, or ``(2 of 3)`` where runs are missing; why, where all are; a dash where none are.

    A dagger marks the last evaluation of runs that were stopped early.
    """
    if cell.estimate is None:
        return CellText(state_counts(cell.without) if cell.expected else "–")
    value = number(cell.estimate.mean, metric)
    if cell.estimate.std is not None:
        value += f" ± {number(cell.estimate.std, metric)}"
    if cell.estimate.n < cell.expected:
        runs = f"({cell.estimate.n} of {cell.expected})"
    else:
        runs = f"({cell.estimate.n})" if cell.estimate.n else ""
    return CellText(value, f"{runs} †" if cell.is_early else runs, cell.is_best)


def cell_text(cell: Cell, metric: str) -> str:
    """:func:`text_of` in one."""
    return text_of(cell, metric).whole


def paper_text(reference: Reference | None, metric: str) -> CellText:
    """``70.6`` and ``(+0.6) [1]``: the paper's figure, our mean minus it, and the note on what differs."""
    if reference is None:
        return CellText("")
    ours = "" if reference.difference is None else f"({signed(reference.difference, metric)})"
    note = "" if reference.note is None else f"[{reference.note}]"
    return CellText(printed(reference.value), " ".join(part for part in (ours, note) if part))


def number(value: float, metric: str) -> str:
    """Accuracies in percent with one decimal, anything else with four significant digits."""
    return f"{value:.1f}" if measure_of(metric).is_percent else f"{value:.4g}"


def printed(value: float) -> str:
    """A paper's figure in percent, with one decimal, or as many as it has."""
    return max(f"{value:.1f}", f"{value:g}", key=len)


def signed(value: float, metric: str) -> str:
    """A difference, with its sign; one that rounds to nothing has none."""
    text = number(abs(value), metric)
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def interval_text(interval: Interval | None, metric: str) -> str:
    """``[+0.1, +1.1]``, or a dash."""
    return "–" if interval is None else f"[{signed(interval.low, metric)}, {signed(interval.high, metric)}]"


def state_counts(counts: Mapping[RunState, int]) -> str:
    """``failed: 2, running: 1``, in the order of the states; a completed run that lacks the value is not measured."""
    words = {RunState.COMPLETED: "not measured"}
    return ", ".join(f"{words.get(state, state.value)}: {counts[state]}" for state in RunState if counts.get(state))


def metric_titles(table: Table) -> tuple[str, ...]:
    """Short headings of the metrics: without the beginning that all of them share."""
    metrics = table.metrics
    shared = shared_prefix(table)
    return tuple(metric.removeprefix(shared) for metric in metrics)


def column_title(table: Table, column: Column) -> str:
    """Group and short metric in one, for where a column is named in a line."""
    title = column.metric.removeprefix(shared_prefix(table))
    return " ".join(part for part in (column.group, title) if part)


def shared_prefix(table: Table) -> str:
    """What the names of all metrics begin with, up to a slash: ``eval/knn/``."""
    folders = [metric.rpartition("/")[0].split("/") for metric in table.metrics]
    shared: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared) + "/" if shared and shared[0] else ""


def averaged_over(table: Table) -> str:
    """What is averaged, in words."""
    return " and ".join(table.over) or "runs"


def caption(report: Report) -> str:
    """What the numbers are, in one or two sentences."""
    table = report.table
    if not report.runs:
        return "The experiment has no runs yet."
    what = shared_prefix(table).strip("/") or ", ".join(table.metrics)
    unit = ", in percent" if all(measure_of(metric).is_percent for metric in table.metrics) else ""
    return (
        f"{what}{unit}: mean ± sample standard deviation over {averaged_over(table)} (number of runs). "
        f"{report.completed} of {len(report.runs)} runs are complete"
        + (f", {report.ended_early} were stopped early." if report.ended_early else ".")
    )
