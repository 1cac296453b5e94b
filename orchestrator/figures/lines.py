"""Panels of lines with bands, the same in every figure that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.figures.curves import Band
from orchestrator.figures.style import look, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to so many points, each has a marker; beyond, as many markers as this tell the lines apart.
_MAX_MARKED, _FEW_MARKERS = 30, 8
#: Bands of more lines than this would cover each other, of more than a few they have to be pale.
MAX_BANDS, _FEW_BANDS = 12, 6


@dataclass(frozen=True, eq=False)
class Line:
    """A row of the table in a panel.

    Attributes:
        number: of the row in the table, which gives it its look.
    """

    label: str
    number: int
    band: Band


@dataclass(frozen=True, eq=False)
class LinePanel:
    """Lines on one pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


def draw_panel(axis: Axes, panel: LinePanel) -> None:
    """The lines with their title and labels, over epochs or blocks."""
    draw_lines(axis, panel.lines)
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    whole_numbers(axis)


def draw_lines(axis: Axes, lines: Sequence[Line]) -> None:
    """Each line with a band of one standard deviation to each side, where there is one and lines are not too many."""
    for line in lines:
        _draw_mean(axis, line, is_marked=len(lines) > 1 or len(line.band.x) <= _MAX_MARKED)
        if len(lines) <= MAX_BANDS:
            _draw_band(axis, line, 0.15 if len(lines) <= _FEW_BANDS else 0.07)


def _draw_mean(axis: Axes, line: Line, *, is_marked: bool) -> None:
    own, band = look(line.number), line.band
    points = len(band.x)
    # Staggered, so that the markers of lines that run close together do not cover each other.
    every = 1 if points <= _MAX_MARKED else max(1, points // _FEW_MARKERS)
    axis.plot(
        band.x,
        band.mean,
        color=own.colour,
        marker=own.marker if is_marked else None,
        linestyle=own.dash,
        markevery=(line.number * every // 5 % every, every),
        label=line.label,
    )


def _draw_band(axis: Axes, line: Line, alpha: float) -> None:
    band, spread = line.band, np.nan_to_num(line.band.std)
    if spread.any():
        low, high = band.mean - spread, band.mean + spread
        axis.fill_between(band.x, low, high, color=look(line.number).colour, alpha=alpha, linewidth=0, zorder=1)
