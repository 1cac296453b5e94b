"""Representations in the plane, to be looked at: t-SNE, or UMAP where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F

from trainers import config, rng
from trainers.evaluate.features import FrozenNetwork

#: Method -> module that it needs, and the package that has it.
_NEEDED = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}

#: Features are reduced to so many principal components first, as is usual: distances hardly change, and time does.
_COMPONENTS = 50


@dataclass(frozen=True, eq=False)
class Sample:
    """Representations of some test images.

    Attributes:
        features: (n, d), float32, of length 1.
        labels: (n,), class numbers.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def missing_package(method: str) -> str | None:
    """The package that a method needs and that is not installed here."""
    module, package = _NEEDED[method]
    return package if importlib.util.find_spec(module) is None else None


def sample(network: FrozenNetwork, embedding: config.Embedding, split_seed: int) -> Sample:
    """The representations to be shown. With several processes all must call; all get the same.

    Args:
        network: gives (N, d).
        split_seed: draws the images.
    """
    features, labels = network.test
    order = rng.permutation(rng.derive(split_seed, "embedding"), len(features))
    chosen = np.sort(order[: embedding.images])
    unit = F.normalize(features, dim=1).cpu().numpy()
    return Sample(unit[chosen], labels.cpu().numpy()[chosen])


def embed(shown: Sample, embedding: config.Embedding, seed: int) -> npt.NDArray[np.float32]:
    """Places in the plane, (n, 2). The same bits every time, because one thread computes them.

    Takes seconds for a thousand images, and minutes for ten thousand.

    Raises:
        ImportError: the method's package is not installed.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    count, width = shown.features.shape
    if count < 4:
        return np.zeros((count, 2), np.float32)  # neighbourhoods of so few mean nothing
    perplexity = min(embedding.perplexity, (count - 1) / 3)
    random_state = seed % 2**32
    with threadpool_limits(1):
        components = min(_COMPONENTS, width, count)
        reduced = PCA(components, svd_solver="full").fit_transform(shown.features.astype(np.float64))
        if embedding.method == "umap":
            neighbours = max(2, round(perplexity))
            umap = importlib.import_module("umap")  # no dependency of ours, so that nobody knows its types
            places = umap.UMAP(n_neighbors=neighbours, random_state=random_state, n_jobs=1).fit_transform(reduced)
        else:
            from sklearn.manifold import TSNE

            places = TSNE(perplexity=perplexity, init="pca", random_state=random_state, n_jobs=1).fit_transform(reduced)
    return np.asarray(places, np.float32)
