"""Accuracy on the many, medium and few classes: bars of few rows, points beside the names of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.figures.placement import Placement
from orchestrator.figures.style import (
    CHANCE,
    GREY,
    Form,
    add_legend,
    at,
    look,
    panel_grid,
    percent_axis,
    saved,
)
from orchestrator.report.model import Estimate, Row, RowKind, Table
from orchestrator.report.summary import GROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More rows make bars too thin for their hatching.
_MAX_BARS = 8
#: Inches that a row of points takes.
_ROW_HEIGHT = 0.24


def group_metrics(table: Table) -> tuple[str, ...]:
    """The first protocol's many, medium and few among the table's metrics; empty if one of them is missing."""
    for metric in table.metrics:
        prefix = metric.rpartition("/")[0]
        wanted = tuple(f"{prefix}/{group}" for group in GROUPS)
        if set(wanted) <= set(table.metrics):
            return wanted
    return ()


def groups_figure(table: Table, placement: Placement, metrics: Sequence[str], *forms: Form) -> tuple[bytes, ...]:
    """A panel for each column group.

    Args:
        metrics: the table's metrics for many, medium and few.
    """
    is_bars = len(placement.rows) <= _MAX_BARS
    height = 2.4 if is_bars else _ROW_HEIGHT * len(placement.rows) + 0.6
    figure, axes = panel_grid(len(table.groups), share_y=True, height=height)
    for group, axis in zip(table.groups, axes, strict=True):
        part = table.of_group(group)
        if is_bars:
            _draw_bars(axis, part, placement, metrics)
        else:
            _draw_points(axis, part, placement, metrics)
        axis.set_title(group)
    add_legend(figure, axes)
    return saved(figure, *forms)


def _draw_bars(axis: Axes, table: Table, placement: Placement, metrics: Sequence[str]) -> None:
    width = 0.8 / max(1, len(placement.rows))
    for number, row in enumerate(_of_runs(table)):
        own = look(number)
        bars = [(place, item) for place, item in enumerate(_estimates(table, row, metrics)) if item is not None]
        axis.bar(
            [place - 0.4 + width * (number + 0.5) for place, _ in bars],
            [item.mean for _, item in bars],
            width * 0.92,
            yerr=[_spread(item) for _, item in bars],
            capsize=2,
            color=own.colour,
            alpha=0.85,
            edgecolor="black",
            linewidth=0.6,
            hatch=own.hatch,
            error_kw={"linewidth": 0.9},
            label=placement.names[row.label],
        )
    level = _chance(table, metrics)
    if level is not None:
        axis.axhline(level, color=GREY, linestyle=":", linewidth=1, label=CHANCE)
    axis.set_xticks(range(len(metrics)), [metric.rpartition("/")[2] for metric in metrics])
    axis.grid(visible=False, axis="x")
    percent_axis(axis)
    if at(axis).is_first_col():
        axis.set_ylabel(f"{metrics[0].split('/')[1]} accuracy (%)")


def _draw_points(axis: Axes, table: Table, placement: Placement, metrics: Sequence[str]) -> None:
    rows = _of_runs(table)
    for number, metric in enumerate(metrics):
        own, offset = look(number), 0.22 * (number - (len(metrics) - 1) / 2)
        known = [(place, item) for place, row in enumerate(rows) for item in _estimates(table, row, [metric]) if item]
        axis.errorbar(
            [item.mean for _, item in known],
            [place + offset for place, _ in known],
            xerr=[_spread(item) for _, item in known],
            color=own.colour,
            marker=own.marker,
            linestyle="none",
            elinewidth=0.9,
            label=metric.rpartition("/")[2],
        )
    level = _chance(table, metrics)
    if level is not None:
        axis.axvline(level, color=GREY, linestyle=":", linewidth=1, label=CHANCE)
    axis.set_yticks(range(len(rows)), [placement.names[row.label] for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the table's order, from the top
    axis.set_xlim(0, 103)
    axis.set_xlabel(f"{metrics[0].split('/')[1]} accuracy (%)")


def _spread(item: Estimate) -> float:
    """One standard deviation; NaN, which draws no whisker, of a single run."""
    return math.nan if item.std is None else item.std


def _of_runs(table: Table) -> list[Row]:
    return [row for row in table.rows if row.kind is RowKind.RUNS]


def _chance(table: Table, metrics: Sequence[str]) -> float | None:
    rows = [row for row in table.rows if row.kind is RowKind.CHANCE]
    return next((item.mean for row in rows for item in _estimates(table, row, metrics) if item), None)


def _estimates(table: Table, row: Row, metrics: Sequence[str]) -> list[Estimate | None]:
    cells = {column.metric: cell for column, cell in zip(table.columns, row.cells, strict=True)}
    return [cells[metric].estimate for metric in metrics]
