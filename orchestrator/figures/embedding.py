"""The test images of one run in the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.figures.style import CHARACTER, blank, look, saved, short_labels

#: More points than this hide each other; up to so many classes can be told apart by a legend.
_MAX_POINTS, _MAX_NAMED = 5_000, 20
_SIDE = 4.4
_DPI = 120
#: How people write the methods.
_METHODS = {"tsne": "t-SNE", "umap": "UMAP"}


@dataclass(frozen=True, eq=False)
class Embedding:
    """Test images in the plane.

    Attributes:
        points: (n, 2) float32.
        labels: (n,) class numbers.
        classes: their names.
        method: that found the places: ``tsne`` or ``umap``.
    """

    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    method: str


def embedding_figure(title: str, embedding: Embedding) -> bytes:
    """A scatter as PNG: colour and marker by class, with a legend where there are few classes."""
    step = math.ceil(len(embedding.points) / _MAX_POINTS) or 1
    points, labels = embedding.points[::step], embedding.labels[::step]
    names = short_labels(embedding.classes, 18)
    is_named = len(names) <= _MAX_NAMED
    figure = blank(_SIDE + (0.4 + CHARACTER * max(map(len, names)) if is_named else 0), _SIDE)
    axis = figure.add_subplot()
    if is_named:
        for number, name in enumerate(names):
            own, of_class = look(number), points[labels == number]
            axis.scatter(
                of_class[:, 0],
                of_class[:, 1],
                s=14,
                color=own.colour,
                marker=own.marker,
                alpha=0.7,
                linewidths=0,
                label=name,
            )
        figure.legend(loc="outside right upper", markerscale=1.6)
    else:
        axis.scatter(points[:, 0], points[:, 1], s=7, c=labels, cmap="nipy_spectral", alpha=0.7, linewidths=0)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_aspect("equal", adjustable="datalim")
    part = f"{len(points):,} of {len(embedding.points):,}" if step > 1 else f"{len(points):,}"
    axis.set_xlabel(f"{_METHODS.get(embedding.method, embedding.method)} of {part} test images, {len(names)} classes")
    axis.set_title(title)
    return saved(figure, "png", dpi=_DPI)[0]
