"""Panels of lines with bands, the same in every figure that has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.figures.curves import Band
from orchestrator.figures.style import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to so many points, each has a marker; beyond, as many markers as this tell the lines apart.
_MAX_MARKED, _FEW_MARKERS = 30, 8


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


def draw_lines(axis: Axes, panel: LinePanel) -> None:
    """Each line with a band of one standard deviation to each side, where there is one."""
    for line in panel.lines:
        draw_line(axis, line)
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)


def draw_line(axis: Axes, line: Line) -> None:
    """The mean with its markers, and the band behind it."""
    own, band = look(line.number), line.band
    points = len(band.x)
    # Staggered, so that the markers of lines that run close together do not cover each other.
    every = 1 if points <= _MAX_MARKED else max(1, points // _FEW_MARKERS)
    axis.plot(
        band.x,
        band.mean,
        color=own.colour,
        marker=own.marker,
        linestyle=own.dash,
        markevery=(line.number * every // 5 % every, every),
        label=line.label,
    )
    spread = np.nan_to_num(band.std)
    if spread.any():
        axis.fill_between(
            band.x, band.mean - spread, band.mean + spread, color=own.colour, alpha=0.15, linewidth=0, zorder=1
        )
