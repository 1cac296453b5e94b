"""Accuracy against class frequency: class by class where there are few, over bins of classes where there are many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.figures.curves import Floats, over_runs
from orchestrator.figures.lines import Line, draw_lines
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import (
    CHANCE,
    CHARACTER,
    GREY,
    LONE,
    PAGE,
    Form,
    add_legend,
    at,
    columns_for,
    is_wide,
    panel_grid,
    percent_axis,
    plain_ticks,
    saved,
    short_labels,
)
from orchestrator.report.model import ClassPanel, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: With more classes than this, their names do not fit below the axis, and single ones do not matter: bins are drawn.
MAX_NAMED = 20
_BINS = 20
_MAX_NAME = 14


@dataclass(frozen=True, eq=False)
class ClassAxis:
    """Where the classes of a panel stand.

    Attributes:
        starts: (bins,) first class of each bin, in the panel's order.
        x: (bins,) where each bin stands: its place in the order, or its number of training images.
        is_frequency: it is the number of images, on a logarithmic axis.
        size: classes of a bin, at most.
    """

    starts: tuple[int, ...]
    x: Floats
    is_frequency: bool
    size: int


def class_axis(panel: ClassPanel) -> ClassAxis:
    """Up to 20 classes stand side by side. More are put into 20 bins of as many classes each; where their frequencies
    differ a lot, a bin stands at the geometric mean of its classes' numbers of training images.
    """
    number = len(panel.classes)
    bins = min(number, _BINS)
    starts = tuple(number * place // bins for place in range(bins))
    sizes = np.diff([*starts, number])
    is_frequency = bins < number and is_wide(panel.counts)
    places = np.log(panel.counts) if is_frequency else np.arange(number, dtype=np.float64)
    means = np.add.reduceat(places, starts) / sizes
    return ClassAxis(starts, np.exp(means) if is_frequency else means, is_frequency, int(sizes.max()))


def bin_means(accuracies: Mapping[str, float], classes: Sequence[str], starts: Sequence[int]) -> Floats:
    """Mean accuracy of the classes of each bin, (bins,); NaN in one of which no class was measured."""
    values = np.array([accuracies.get(name, np.nan) for name in classes], np.float64)
    known = ~np.isnan(values)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    means: Floats = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    return means


def per_class_figure(report: Report, placement: Placement, *forms: Form) -> tuple[bytes, ...]:
    """Accuracy by class, most frequent first: a panel for each column group, a line for each row."""
    figure, axes = panel_grid(len(report.panels), share_y=True, height=_height(report.panels))
    most = max(max(panel.counts) for panel in report.panels)
    width = PAGE / columns_for(len(axes)) if len(axes) > 1 else LONE
    for panel, axis in zip(report.panels, axes, strict=True):
        place = class_axis(panel)
        draw_lines(axis, _lines(panel, place, placement, report.protocol))
        axis.axhline(panel.chance, color=GREY, linestyle=":", linewidth=1, label=CHANCE)
        axis.set_title(panel.group, pad=14 if panel.groups else None)
        percent_axis(axis)
        if place.is_frequency:
            axis.set_xscale("log")
            axis.invert_xaxis()
            plain_ticks(axis.xaxis)
            axis.set_xlabel(f"training images (bins of {place.size} classes)")
        else:
            _name_classes(axis, panel, place, width)
            if place.size == 1:
                _draw_counts(axis, panel, most)
        _mark_groups(axis, panel, place)
        if at(axis).is_first_col():
            axis.set_ylabel(f"{report.protocol} accuracy (%)")
    add_legend(figure, axes)
    return saved(figure, *forms)


def _height(panels: Sequence[ClassPanel]) -> float:
    """Inches of a panel: the names below it do not take from its plot."""
    names = (name for panel in panels if len(panel.classes) <= MAX_NAMED for name in panel.classes)
    return 2.5 + CHARACTER * min(max(map(len, names), default=0), _MAX_NAME)


def _lines(panel: ClassPanel, place: ClassAxis, placement: Placement, protocol: str) -> list[Line]:
    classes, lines = set(panel.classes), []
    for number, row in enumerate(placement.rows):
        values = [
            bin_means(run.per_class[protocol], panel.classes, place.starts)
            for run in placement.finished(row, panel.group)
            if set(run.class_counts) == classes and protocol in run.per_class
        ]
        if values:
            lines.append(Line(placement.names[row], number, over_runs(place.x, np.stack(values))))
    return lines


def _name_classes(axis: Axes, panel: ClassPanel, place: ClassAxis, width: float) -> None:
    """Their names below the axis, level if there is room in so many inches."""
    if len(panel.classes) <= MAX_NAMED:
        names = short_labels(panel.classes, _MAX_NAME)
        is_level = (max(map(len, names)) + 1) * CHARACTER < (width - 0.9) / len(names)
        axis.set_xticks(range(len(names)), names, rotation=0 if is_level else 90)
    low, high = min(panel.counts), max(panel.counts)
    images = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    bins = f" (bins of {place.size}; {images} images each)" if place.size > 1 else ""
    axis.set_xlabel(f"class, most frequent first{bins}")


def _mark_groups(axis: Axes, panel: ClassPanel, place: ClassAxis) -> None:
    """Lines between the many, medium and few classes, and their names above."""

    def where(number: float) -> float:
        if not place.is_frequency:
            return number
        return math.exp(float(np.interp(number, range(len(panel.counts)), np.log(panel.counts))))

    for number in range(1, len(panel.groups)):
        if panel.groups[number] != panel.groups[number - 1]:
            axis.axvline(where(number - 0.5), color="#999999", linewidth=0.8)
    for group in dict.fromkeys(panel.groups):
        members = [number for number, name in enumerate(panel.groups) if name == group]
        axis.annotate(
            group,
            (where(sum(members) / len(members)), 1.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=GREY,
            fontsize=7.5,
        )


def _draw_counts(axis: Axes, panel: ClassPanel, most: int) -> None:
    """The class histogram behind the lines, so that what "frequent" means can be read off the same panel.

    It fills the lower half at most, on one scale for all panels (``most`` images).
    """
    counts = axis.twinx()
    edges = np.arange(len(panel.counts) + 1) - 0.5
    counts.stairs(panel.counts, edges, fill=True, color="#e6e6e6", zorder=0)
    counts.set_ylim(0, most * 2)
    counts.set_yticks([tick for tick in counts.get_yticks() if tick <= most])
    counts.grid(visible=False)
    counts.tick_params(axis="y", colors="#777777")
    if at(axis).is_last_col():
        counts.set_ylabel("training images", color="#777777")
    axis.set_zorder(counts.get_zorder() + 1)
    axis.patch.set_visible(False)
