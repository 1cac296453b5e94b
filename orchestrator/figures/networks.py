"""The teacher beside the student: which of the two encoders is worth more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.figures.curves import Band, Floats
from orchestrator.figures.layers import whole_network_protocols
from orchestrator.figures.lines import Line, LinePanel, draw_panel
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import GREY, Form, add_legend, look, panel_grid, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Networks that are evaluated beside the one that the paper evaluates, which has no suffix in its metrics.
NETWORKS = ("teacher", "student")
_MAX_PROTOCOLS = 2


@dataclass(frozen=True, eq=False)
class NetworkPoints:
    """Both networks of the runs of one row, in one column group.

    Attributes:
        student, teacher: (n,) accuracies in percent, run by run.
    """

    row: str
    number: int
    student: Floats
    teacher: Floats


def paired_protocols(names: Iterable[str], headline: Sequence[str]) -> tuple[str, ...]:
    """Protocols by which both networks were evaluated, at most two: those of the report first."""
    known = set(whole_network_protocols(names))
    paired = {name for name in known if any(f"{name}_{network}" in known for network in NETWORKS)}
    wanted = [name for name in whole_network_protocols(headline) if name in paired]
    return tuple(dict.fromkeys([*wanted, *sorted(paired)]))[:_MAX_PROTOCOLS]


def both_networks(metrics: Mapping[str, float], protocol: str) -> tuple[float, float] | None:
    """Accuracy of the student and of the teacher, or None where one of them was not measured."""
    own = metrics.get(f"eval/{protocol}/top1")
    teacher, student = (metrics.get(f"eval/{protocol}_{network}/top1") for network in NETWORKS)
    if own is None or (teacher is None and student is None):
        return None
    return (own, teacher) if teacher is not None else (student or 0.0, own)


def network_points(placement: Placement, protocol: str, group: str) -> tuple[NetworkPoints, ...]:
    """The rows of a column group that have both networks."""
    found = []
    for number, row in enumerate(placement.rows):
        pairs = [both_networks(run.metrics, protocol) for run in placement.finished(row, group)]
        known = np.array([pair for pair in pairs if pair is not None])
        if len(known):
            found.append(NetworkPoints(placement.names[row], number, known[:, 0], known[:, 1]))
    return tuple(found)


def networks_figure(
    placement: Placement,
    curves: Mapping[tuple[str, str], Mapping[str, Band]],
    protocols: Sequence[str],
    *forms: Form,
) -> tuple[bytes, ...]:
    """Teacher against student at the end, run by run, and below, by how much the teacher is ahead on the way there."""
    keys = list(placement.panels(protocols))
    points = {key: rows for key in keys if (rows := network_points(placement, *key))}
    leads = [panel for key in keys if (panel := _lead(placement, curves, *key)).lines]
    figure, axes = panel_grid(len(points) + len(leads), groups=len(placement.groups), height=2.6)
    for ((protocol, group), rows), axis in zip(points.items(), axes, strict=False):
        _draw_points(axis, rows)
        axis.set_title(group)
        axis.set_xlabel(f"student, {protocol} top-1 (%)")
        axis.set_ylabel(f"teacher, {protocol} top-1 (%)")
    for panel, axis in zip(leads, axes[len(points) :], strict=True):
        draw_panel(axis, panel)
        axis.axhline(0, color=GREY, linestyle=":", linewidth=1)
    add_legend(figure, axes)
    return saved(figure, *forms)


def _lead(
    placement: Placement, curves: Mapping[tuple[str, str], Mapping[str, Band]], protocol: str, group: str
) -> LinePanel:
    metric = f"gap/{protocol}"
    lines = []
    for number, row in enumerate(placement.rows):
        over_runs = curves.get((row, group), {}).get(metric)
        if over_runs is not None and len(over_runs.x) > 1:
            lines.append(Line(placement.names[row], number, over_runs))
    return LinePanel(group, "epoch", f"teacher ahead, {protocol} (points)", tuple(lines))


def _draw_points(axis: Axes, rows: Sequence[NetworkPoints]) -> None:
    for row in rows:
        own = look(row.number)
        axis.plot(row.student, row.teacher, own.marker, color=own.colour, markersize=3, alpha=0.35, linestyle="none")
        axis.errorbar(
            row.student.mean(),
            row.teacher.mean(),
            xerr=_std(row.student),
            yerr=_std(row.teacher),
            color=own.colour,
            marker=own.marker,
            markersize=6,
            markeredgecolor="black",
            markeredgewidth=0.5,
            linestyle="none",
            elinewidth=0.9,
            label=row.row,
        )
    # Whiskers reach beyond the runs themselves.
    both = np.concatenate([_reach(values) for row in rows for values in (row.student, row.teacher)])
    margin = max(1.0, 0.08 * float(np.ptp(both)))
    ends = (both.min() - margin, both.max() + margin)
    axis.plot(ends, ends, color=GREY, linestyle=":", linewidth=1, zorder=1)
    axis.set(xlim=ends, ylim=ends)


def _reach(values: Floats) -> Floats:
    """The values, and the ends of the whiskers around their mean."""
    spread = _std(values) or 0.0
    return np.append(values, [values.mean() - spread, values.mean() + spread])


def _std(values: Floats) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
