"""Loss and accuracy over the training, as means over the runs of a row with bands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from orchestrator.figures.curves import Band, Series, band, read_series
from orchestrator.figures.layers import whole_network_protocols
from orchestrator.figures.lines import Line, LinePanel, draw_panel
from orchestrator.figures.networks import NETWORKS
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import Form, add_legend, panel_grid, saved, share_y
from trainers.rundir import RunDir

LOSS = "train/loss"
#: Accuracies that are drawn beside the loss, at most.
_MAX_ACCURACIES = 3
#: Points of all lines of a metric together: what an SVG file can carry, and what of them one line has at most.
_MAX_POINTS, _MAX_LINE, _MIN_LINE = 15_000, 100, 60

#: Metric -> its band, for the runs of one cell of the table.
Curves = Mapping[str, Band]


def read_curves(placement: Placement, run_dirs: Mapping[str, RunDir]) -> dict[tuple[str, str], Curves]:
    """What was measured during the training, by row and column group: the loss, and every ``eval/<protocol>/top1``.

    ``gap/<protocol>`` is by how much the teacher is ahead of the student, where both were evaluated. The files of one
    cell at a time are in memory.

    Args:
        run_dirs: by the run's id; runs without one are left out.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    most = int(np.clip(_MAX_POINTS // max(1, len(placement.cells.by_place)), _MIN_LINE, _MAX_LINE))
    found: dict[tuple[str, str], Curves] = {}
    for key, runs in placement.cells.by_place.items():
        series = [_with_gaps(read_series(run_dirs[run.run_id], _is_wanted)) for run in runs if run.run_id in run_dirs]
        names = dict.fromkeys(name for run in series for name in run)
        found[key] = {name: band([run[name] for run in series if name in run], most) for name in names}
    return found


def training_metrics(curves: Collection[Curves], headline: Sequence[str]) -> tuple[str, ...]:
    """What the figure shows: the loss, and accuracies that were measured more than once, those of the report first."""
    measured = {name for of_cell in curves for name, over_runs in of_cell.items() if len(over_runs.x) > 1}
    accuracies = [name for name in headline if name in measured]
    accuracies += sorted(name for name in measured if name.startswith("eval/") and name not in accuracies)
    return (*([LOSS] if LOSS in measured else []), *accuracies[:_MAX_ACCURACIES])


def training_figure(
    placement: Placement, curves: Mapping[tuple[str, str], Curves], metrics: Sequence[str], *forms: Form
) -> tuple[bytes, ...]:
    """A panel for each metric and column group, on one scale for each metric; a line for each row."""
    keys = list(placement.panels(metrics))
    groups = len(placement.groups)
    figure, axes = panel_grid(len(keys), groups=groups)
    for (metric, group), axis in zip(keys, axes, strict=True):
        lines = tuple(
            Line(placement.names[row], number, curves[row, group][metric])
            for number, row in enumerate(placement.rows)
            if metric in curves.get((row, group), {})
        )
        draw_panel(axis, LinePanel(group, "epoch", _title(metric), lines))
    share_y(axes, groups)
    add_legend(figure, axes)
    return saved(figure, *forms)


def _title(metric: str) -> str:
    return "training loss" if metric == LOSS else f"{metric.split('/')[1]} top-1 (%)"


def _is_wanted(name: str) -> bool:
    return name == LOSS or bool(whole_network_protocols([name]))


def _with_gaps(series: Mapping[str, Series]) -> dict[str, Series]:
    """A run's series, with the teacher's lead over the student wherever both were evaluated."""
    found = dict(series)
    for protocol in whole_network_protocols(series):
        own = series[f"eval/{protocol}/top1"]
        for network in NETWORKS:
            other = series.get(f"eval/{protocol}_{network}/top1")
            if other is None:
                continue
            epochs, of_own, of_other = np.intersect1d(own.epochs, other.epochs, return_indices=True)
            lead = other.values[of_other] - own.values[of_own]
            found[f"gap/{protocol}"] = Series(epochs, lead if network == "teacher" else -lead)
    return found
