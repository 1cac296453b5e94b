"""Which images keep their label when a share of the labels is used: the semi-supervised protocol of ISD's table 4."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trainers import rng

Ints = npt.NDArray[np.int64]


def few_labels(labels: Ints, share: float, split_seed: int) -> Ints:
    """The images that keep their label: ``share`` of each class, rounded up; ascending.

    The images of a smaller share are among those of every larger one. Stable for ever: run seeds share one choice, and
    it depends on nothing but the arguments. (The published lists of ImageNet, SimCLR's, are another draw of this kind:
    12811 images for 1 %.)

    Args:
        labels: (N,) of the training images; -1 for those that have none in the first place.
        share: in (0, 1].
        split_seed: draws the choice.
    """
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels[labels >= 0]).tolist():
        members = np.flatnonzero(labels == label)
        order = rng.permutation(rng.derive(split_seed, "few_labels", label), len(members))
        # Rounded first, for .07 * 100 is a little more than 7.
        chosen.append(members[order[: math.ceil(round(share * len(members), 9))]])
    return np.sort(np.concatenate(chosen))
