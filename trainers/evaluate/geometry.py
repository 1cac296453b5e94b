"""How representations lie on the unit sphere. Needs no labels, and tells a collapsed encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers import config, rng
from trainers.config.views import CROP_AND_FLIP
from trainers.evaluate.features import FrozenNetwork

#: Effective rank below which an encoder counts as collapsed. Small vision transformers that were trained to align views
#: and nothing else fell from 28 to 3.3 in 5 epochs and 2.7 in 15; untrained encoders of several kinds have 12 and more;
#: a supervised one has about as many as there are classes, so that with four classes or fewer it is no sign.
COLLAPSED_RANK = 4.0


@dataclass(frozen=True)
class Geometry:
    """What the representations look like, without their labels.

    Attributes:
        alignment: mean squared distance of two views of the same image, in [0, 4]; 0 is perfect (:func:`alignment`).
        uniformity: 0 for representations that are all the same, -4 at the least (:func:`uniformity`).
        effective_rank: directions that the representations spread over (:func:`effective_rank`).
    """

    alignment: float
    uniformity: float
    effective_rank: float

    @property
    def is_collapsed(self) -> bool:
        """Whether the representations hardly differ."""
        return self.effective_rank < COLLAPSED_RANK


def evaluate_geometry(network: FrozenNetwork, geometry: config.Geometry, split_seed: int) -> Geometry:
    """Look at some test images: as they are, and in two random views each.

    The views are cropped and flipped only, the same for every method, so that methods with different views of their own
    can be compared. With several processes all must call; all get the same result.

    Args:
        network: gives (N, d).
        split_seed: draws the images and their views.
    """
    features, _ = network.test
    order = rng.permutation(rng.derive(split_seed, "geometry"), len(features))
    chosen = np.sort(order[: geometry.images])
    seed = rng.derive(split_seed, "geometry", "views")
    first, second = (network.of_test_views(chosen, CROP_AND_FLIP, seed=seed, epoch=number) for number in range(2))
    plain = features[torch.from_numpy(chosen).to(features.device)]
    return Geometry(alignment(first, second), uniformity(plain), effective_rank(plain))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of unit representations of two views (Wang and Isola 2020, arXiv 2005.10242).

    Args:
        first, second: (N, d), not normalised; row n of both belongs to the same image.
    """
    return (_unit(first) - _unit(second)).square().sum(1).mean().item()


def uniformity(features: Tensor) -> float:
    """Logarithm of the mean of exp(-2 |x - y|^2) over pairs of different images (Wang and Isola 2020).

    Args:
        features: (N, d), not normalised, of at least two images.
    """
    distances = F.pdist(_unit(features))
    return distances.square().mul(-2).exp().mean().log().item()


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007) of unit features.

    Between 1, for features that are all the same, and min(N, d); 0 for zeros. Features are not centred, as in RankMe
    (Garrido et al. 2023, arXiv 2210.02885): centred ones cannot tell an encoder whose outputs differ by next to nothing
    from one whose outputs differ by much, if only they differ in equally many directions.

    Args:
        features: (N, d), not normalised.
    """
    values = torch.linalg.svdvals(_unit(features))
    shares = values / values.sum()
    shares = shares[shares > 0]
    return math.exp(-(shares * shares.log()).sum().item()) if len(shares) else 0.0


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=1)
