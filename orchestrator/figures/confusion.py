"""The confusion matrix of one protocol of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.figures.curves import Floats
from orchestrator.figures.style import blank, saved, short_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to so many classes have numbers in their fields, up to so many have names, and beyond so many are drawn in blocks.
_MAX_NUMBERED, _MAX_NAMED, _MAX_DRAWN = 10, 20, 100
_MAX_NAME = 14
_DPI = 120


@dataclass(frozen=True, eq=False)
class Confusion:
    """Test images by true and predicted class.

    Attributes:
        matrix: (classes, classes), true class by row, predicted class by column.
        classes: their names.
    """

    matrix: npt.NDArray[np.int64]
    classes: Sequence[str]


def confusion_figure(title: str, confusion: Confusion) -> bytes:
    """Shares of each true class, as PNG: with numbers and names where there are few classes, in blocks where many."""
    from matplotlib.colors import PowerNorm

    size = math.ceil(len(confusion.classes) / _MAX_DRAWN)
    shares = row_shares(in_blocks(confusion.matrix, size))
    figure = blank(5.2, 4.6)
    axis = figure.add_subplot()
    # The root shows rare confusions, which are the interesting ones, beside a strong diagonal.
    colours, end = PowerNorm(0.5, vmin=0, vmax=100), len(confusion.classes) - 0.5
    extent = (-0.5, end, end, -0.5)
    image = axis.imshow(100 * shares, cmap="Blues", norm=colours, interpolation="nearest", extent=extent)
    axis.grid(visible=False)
    axis.spines[["top", "right"]].set_visible(True)
    _name_classes(axis, confusion.classes, size)
    if len(confusion.classes) <= _MAX_NUMBERED:
        _write_numbers(axis, 100 * shares)
    figure.colorbar(image, ax=axis, label="% of the true class", fraction=0.046)
    axis.set_title(title)
    return saved(figure, "png", dpi=_DPI)[0]


def in_blocks(matrix: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Sums over blocks of ``size`` neighbouring classes in both directions; the last block may be smaller."""
    starts = np.arange(0, len(matrix), size)
    return np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)


def row_shares(matrix: npt.NDArray[np.int64]) -> Floats:
    """Each row divided by its sum; NaN in a row without images."""
    sums = matrix.sum(1, keepdims=True)
    shares: Floats = np.divide(matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)
    return shares


def _name_classes(axis: Axes, classes: Sequence[str], size: int) -> None:
    if len(classes) <= _MAX_NAMED:
        names = short_labels(classes, _MAX_NAME)
        is_long = max(map(len, names)) > 3
        axis.set_xticks(range(len(names)), names, rotation=90 if is_long else 0)
        axis.set_yticks(range(len(names)), names)
    blocks = f" (blocks of {size} classes)" if size > 1 else ""
    axis.set_xlabel(f"predicted{blocks}")
    axis.set_ylabel(f"true{blocks}")


def _write_numbers(axis: Axes, percent: Floats) -> None:
    for (row, column), share in np.ndenumerate(percent):
        if share >= 0.5:  # an empty field says as much as a zero, and more quietly
            axis.text(
                column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 35 else "black", size=7
            )
