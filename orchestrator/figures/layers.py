"""Accuracy block by block: what a vision transformer knows at which depth (SDSSL's early exits)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from orchestrator.figures.curves import Series, band
from orchestrator.figures.lines import Line, LinePanel, draw_panel
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import Form, add_legend, panel_grid, saved, share_y

#: Protocol, number of the block from 1, and the network where it is not the one that the paper evaluates.
_LAYER = re.compile(r"eval/(.+)_layer(\d+)(_[a-z]+)?/top1")
_WHOLE = re.compile(r"eval/([^/]+)/top1")


def layer_accuracies(metrics: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Protocol and network, such as ``knn_teacher`` -> number of the block -> accuracy in percent, in order."""
    found: dict[str, dict[int, float]] = {}
    for name, value in metrics.items():
        match = _LAYER.fullmatch(name)
        if match:
            protocol, number, network = match.groups()
            found.setdefault(protocol + (network or ""), {})[int(number)] = value
    return {protocol: dict(sorted(values.items())) for protocol, values in sorted(found.items())}


def whole_network_protocols(names: Iterable[str]) -> tuple[str, ...]:
    """Protocols and networks of the metrics ``eval/<protocol>/top1``, without those of single blocks."""
    matches = (_WHOLE.fullmatch(name) for name in names if not _LAYER.fullmatch(name))
    return tuple(dict.fromkeys(match.group(1) for match in matches if match))


def layers_figure(placement: Placement, protocols: Sequence[str], *forms: Form) -> tuple[bytes, ...]:
    """Accuracy against depth: a panel for each protocol and column group, a line for each row."""
    keys = list(placement.panels(protocols))
    figure, axes = panel_grid(len(keys), groups=len(placement.groups))
    for (protocol, group), axis in zip(keys, axes, strict=True):
        draw_panel(axis, LinePanel(group, "block", f"{protocol} top-1 (%)", _lines(placement, protocol, group)))
    share_y(axes, len(placement.groups))
    add_legend(figure, axes)
    return saved(figure, *forms)


def _lines(placement: Placement, protocol: str, group: str) -> tuple[Line, ...]:
    lines = []
    for number, row in enumerate(placement.rows):
        runs = [layer_accuracies(run.metrics).get(protocol) for run in placement.finished(row, group)]
        series = [as_series(accuracies) for accuracies in runs if accuracies]
        if series:
            lines.append(Line(placement.names[row], number, band(series, sum(len(run.epochs) for run in series))))
    return tuple(lines)


def as_series(accuracies: Mapping[int, float]) -> Series:
    """Accuracies by block, with the block's number as the place."""
    return Series(np.array(list(accuracies), np.float64), np.array(list(accuracies.values()), np.float64))
