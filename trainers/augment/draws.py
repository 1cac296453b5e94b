"""Which draw of an image's stream decides what. Never renumber: every number of every run depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainers.config.views import View
from trainers.rng import Stream

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Most boxes that are tried for an image, as in torchvision.
CROP_TRIES = 10

CROP = 0  # area and ratio of each try
POSITION = 2 * CROP_TRIES
FLIP = 22
JITTER = 23
ORDER = 24
FACTORS = 28
GRAYSCALE = 32
BLUR = 33
SIGMA = 34
SOLARIZE = 35


def view_streams(views: Sequence[View], *, seed: int, epoch: int, step: int, indices: Ints) -> tuple[Stream, ...]:
    """Everything random about the views of some images of a global batch: a sequence for each image and view.

    Args:
        seed, epoch, step: of the run, the number of the epoch, and of the step within it. The step plays a part in
            views with ``one_draw`` alone.
        indices: (B,), numbers of the images in their data set.
    """
    return tuple(
        Stream.shared(seed, epoch, number, step, len(indices))
        if view.one_draw
        else Stream.of(seed, epoch, number, indices)
        for number, view in enumerate(views)
    )


def happens(stream: Stream, draw: int, probability: float) -> npt.NDArray[np.bool_]:
    """Whether something of this probability happens to each image, (B,)."""
    return stream.uniform(draw, 1)[:, 0] < probability


def between(uniform: Floats, low: float, high: float) -> Floats:
    """Uniform in [low, high) from uniform in [0, 1)."""
    return low + (high - low) * uniform
