"""The report's figures, drawn by matplotlib without a display, as bytes. Readable in black and white: lines differ in
marker and dash, bars in hatching.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.report.model import ClassPanel, Estimate, Report, Row, RowKind, Table
from orchestrator.report.summary import GROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^vPX*"
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")
#: With more classes than this, their names do not fit below the axis.
_MAX_NAMED_CLASSES = 20
_CHANCE = "chance"

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "sweep",  # the same report is the same file
}


def per_class_figure(report: Report, form: Literal["svg", "png"]) -> bytes:
    """Accuracy of every class, most frequent first: a panel for each column group, a line for each row.

    The band is one sample standard deviation to each side; the dotted line is chance; the grey bars are the numbers of
    training images, on the right axis.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure, axes = _panels(len(report.panels), width=4.6)
        most = max(max(panel.counts) for panel in report.panels)
        for panel, axis in zip(report.panels, axes, strict=True):
            _draw_classes(axis, panel)
            _draw_counts(axis, panel, most, is_last=axis is axes[-1])
        axes[0].set_ylabel(f"{report.protocol} accuracy (%)")
        return _saved(figure, axes[0], form)


def groups_figure(table: Table, metrics: Sequence[str], form: Literal["svg", "png"]) -> bytes:
    """Accuracy on the many, medium and few classes: a panel for each column group, a bar for each row.

    Args:
        metrics: the table's metrics for many, medium and few.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure, axes = _panels(len(table.groups), width=3.6)
        for group, axis in zip(table.groups, axes, strict=True):
            _draw_groups(axis, table.of_group(group), metrics)
            axis.set_title(group)
        axes[0].set_ylabel("accuracy (%)")
        return _saved(figure, axes[0], form)


def group_metrics(table: Table) -> tuple[str, ...]:
    """The first protocol's many, medium and few among the table's metrics; empty if one of them is missing."""
    for metric in table.metrics:
        prefix = metric.rpartition("/")[0]
        wanted = tuple(f"{prefix}/{group}" for group in GROUPS)
        if set(wanted) <= set(table.metrics):
            return wanted
    return ()


def _draw_classes(axis: Axes, panel: ClassPanel) -> None:
    places = list(range(len(panel.classes)))
    for number, curve in enumerate(panel.curves):
        known = [(place, item) for place, item in zip(places, curve.estimates, strict=True) if item is not None]
        at = [place for place, _ in known]
        means = [item.mean for _, item in known]
        low = [item.mean - (item.std or 0.0) for _, item in known]
        high = [item.mean + (item.std or 0.0) for _, item in known]
        colour = _COLOURS[number % len(_COLOURS)]
        axis.plot(
            at,
            means,
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)] if len(places) <= _MAX_NAMED_CLASSES else None,
            linestyle=_DASHES[number % len(_DASHES)],
            markersize=4,
            linewidth=1.4,
            label=curve.label,
        )
        axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.axhline(panel.chance, color="#555555", linestyle=":", linewidth=1, label=_CHANCE)
    axis.set_title(panel.group, pad=16 if panel.groups else None)
    _scale(axis)
    _name_classes(axis, panel)


def _name_classes(axis: Axes, panel: ClassPanel) -> None:
    if len(panel.classes) <= _MAX_NAMED_CLASSES:
        is_long = max(map(len, panel.classes)) > 3
        axis.set_xticks(range(len(panel.classes)), panel.classes)
        axis.tick_params(axis="x", labelrotation=45 if is_long else 0)
    axis.set_xlabel("class, most frequent first")
    for place in range(1, len(panel.groups)):
        if panel.groups[place] != panel.groups[place - 1]:
            axis.axvline(place - 0.5, color="#999999", linewidth=0.8)
    for group in dict.fromkeys(panel.groups):
        members = [place for place, name in enumerate(panel.groups) if name == group]
        axis.annotate(
            group,
            (sum(members) / len(members), 1.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color="#555555",
            fontsize=8,
        )


def _draw_counts(axis: Axes, panel: ClassPanel, most: int, *, is_last: bool) -> None:
    """The class histogram behind the lines, so that what "frequent" means can be read off the same panel.

    It fills the lower half at most, on one scale for all panels (``most`` images).
    """
    counts = axis.twinx()
    counts.bar(range(len(panel.counts)), panel.counts, width=0.8, color="#e6e6e6", zorder=0)
    counts.set_ylim(0, most * 2)
    counts.set_yticks([tick for tick in counts.get_yticks() if tick <= most])
    counts.grid(visible=False)
    counts.tick_params(axis="y", colors="#777777")
    if is_last:
        counts.set_ylabel("training images", color="#777777")
    axis.set_zorder(counts.get_zorder() + 1)
    axis.patch.set_visible(False)


def _draw_groups(axis: Axes, table: Table, metrics: Sequence[str]) -> None:
    rows = [row for row in table.rows if row.kind is RowKind.RUNS]
    width = 0.8 / max(1, len(rows))
    for number, row in enumerate(rows):
        bars = [(place, item) for place, item in enumerate(_estimates(table, row, metrics)) if item is not None]
        axis.bar(
            [place - 0.4 + width * (number + 0.5) for place, _ in bars],
            [item.mean for _, item in bars],
            width * 0.92,
            yerr=[math.nan if item.std is None else item.std for _, item in bars],  # NaN draws no whisker
            capsize=2,
            color=_COLOURS[number % len(_COLOURS)],
            alpha=0.85,
            edgecolor="black",
            linewidth=0.6,
            hatch=_HATCHES[number % len(_HATCHES)],
            error_kw={"linewidth": 0.9},
            label=row.label,
        )
    chance = next((row for row in table.rows if row.kind is RowKind.CHANCE), None)
    level = next((item for item in _estimates(table, chance, metrics) if item), None) if chance else None
    if level is not None:
        axis.axhline(level.mean, color="#555555", linestyle=":", linewidth=1, label=_CHANCE)
    axis.set_xticks(range(len(metrics)), [metric.rpartition("/")[2] for metric in metrics])
    _scale(axis)


def _scale(axis: Axes) -> None:
    """All of 0 to 100 percent, with room for a marker at the top."""
    axis.set_ylim(0, 103)
    axis.set_yticks(range(0, 101, 20))


def _estimates(table: Table, row: Row, metrics: Sequence[str]) -> list[Estimate | None]:
    cells = {column.metric: cell for column, cell in zip(table.columns, row.cells, strict=True)}
    return [cells[metric].estimate for metric in metrics]


def _panels(number: int, width: float) -> tuple[Figure, list[Axes]]:
    """A row of panels that share their vertical axis, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * number + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, number, sharey=True, squeeze=False)[0])


def _saved(figure: Figure, legend_of: Axes, form: Literal["svg", "png"]) -> bytes:
    entries = zip(*legend_of.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] == _CHANCE), strict=True)  # chance comes last
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    # Neither a date nor a version in the file: the same report is the same file.
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    data = io.BytesIO()
    figure.savefig(data, format=form, dpi=150, metadata=metadata)
    return data.getvalue()
