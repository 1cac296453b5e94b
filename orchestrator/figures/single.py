"""Figures of one run, as PNG: everything that its directory has the numbers for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from orchestrator.figures.confusion import Confusion, confusion_figure
from orchestrator.figures.curves import Series, band, read_series
from orchestrator.figures.embedding import Embedding, embedding_figure
from orchestrator.figures.layers import as_series, layer_accuracies, whole_network_protocols
from orchestrator.figures.lines import Line, LinePanel, draw_panel
from orchestrator.figures.style import (
    LONE,
    PANEL_HEIGHT,
    add_legend,
    blank,
    drawing,
    is_wide,
    panel_grid,
    plain_ticks,
    saved,
    short_labels,
)
from trainers.rundir import Result, RunDir

#: Points of a line, and classes that can be named below an axis.
_MAX_POINTS, _MAX_NAMED = 500, 20
_DPI = 120
_LOSS = "train/loss"


def run_figures(run_dir: RunDir, title: str) -> dict[str, bytes]:
    """File name -> PNG of each figure that there are numbers for.

    ``loss.png``, ``layers_<protocol>.png``, ``class_histogram.png``, ``confusion_<protocol>.png``, ``embedding.png``.

    Args:
        title: of the run, for people.

    Raises:
        ValueError: a file of the run directory is damaged; the message names it.
    """
    result = run_dir.read_result()
    series = read_series(run_dir, lambda name: name == _LOSS or bool(whole_network_protocols([name])))
    with drawing():
        return dict(_figures(run_dir, title, result, series))


def _figures(
    run_dir: RunDir, title: str, result: Result | None, series: Mapping[str, Series]
) -> Iterator[tuple[str, bytes]]:
    if _LOSS in series:
        yield "loss.png", _loss_figure(title, series)
    if result is None:
        return
    for protocol, accuracies in layer_accuracies(result.metrics).items():
        yield f"layers_{protocol}.png", _layers_figure(title, protocol, accuracies)
    if result.class_counts:
        yield "class_histogram.png", _histogram_figure(title, result.class_counts)
    for protocol in result.per_class:
        path = run_dir.confusion_path(protocol)
        arrays = _read_arrays(path, ("matrix", "classes"))
        if arrays is not None:
            matrix = Confusion(arrays["matrix"], tuple(map(str, arrays["classes"])))
            yield f"{path.stem}.png", confusion_figure(f"{title}\n{protocol}", matrix)
    arrays = _read_arrays(run_dir.embedding_path, ("points", "labels", "classes", "method"))
    if arrays is not None:
        classes = tuple(map(str, arrays["classes"]))
        embedding = Embedding(arrays["points"], arrays["labels"], classes, str(arrays["method"]))
        yield "embedding.png", embedding_figure(title, embedding)


def _read_arrays(path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """These arrays of a file; None where there is no file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and evaluate the run again") from error


def _loss_figure(title: str, series: Mapping[str, Series]) -> bytes:
    """The loss, and beside it every accuracy that was measured more than once."""
    protocols = [name for name in series if name != _LOSS and len(series[name].epochs) > 1]
    panels = [LinePanel("", "epoch", "loss", (_line("train/loss", 0, series[_LOSS]),))]
    if protocols:
        lines = tuple(_line(name.split("/")[1], number, series[name]) for number, name in enumerate(protocols))
        panels.append(LinePanel("", "epoch", "top-1 (%)", lines))
    figure, axes = panel_grid(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        draw_panel(axis, panel)
    if protocols:
        add_legend(figure, axes[1:])
    figure.suptitle(title, size=9)
    return saved(figure, "png", dpi=_DPI)[0]


def _line(label: str, number: int, series: Series) -> Line:
    return Line(label, number, band([series], _MAX_POINTS))


def _layers_figure(title: str, protocol: str, accuracies: Mapping[int, float]) -> bytes:
    figure, (axis,) = panel_grid(1)
    draw_panel(axis, LinePanel(title, "block", f"{protocol} top-1 (%)", (_line(protocol, 0, as_series(accuracies)),)))
    return saved(figure, "png", dpi=_DPI)[0]


def _histogram_figure(title: str, counts: Mapping[str, int]) -> bytes:
    """Training images of each class, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    figure = blank(LONE, PANEL_HEIGHT)
    axis = figure.add_subplot()
    heights = [count for _, count in ordered]
    if len(ordered) <= _MAX_NAMED:
        axis.bar(range(len(ordered)), heights, color="#bbbbbb", edgecolor="black", linewidth=0.5)
        names = short_labels([name for name, _ in ordered], 14)
        axis.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    else:
        axis.stairs(heights, np.arange(len(heights) + 1) - 0.5, fill=True, color="#bbbbbb")
        axis.set_xlabel("class, most frequent first")
    if is_wide(heights):
        axis.set_yscale("log")
        axis.set_ylim(min(heights) / 2)
        plain_ticks(axis.yaxis)
    axis.grid(visible=False, axis="x")
    axis.set_ylabel("training images")
    axis.set_title(f"{title}\n{sum(heights):,} images, {len(heights)} classes")
    return saved(figure, "png", dpi=_DPI)[0]
