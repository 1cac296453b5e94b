"""Representations of images by a frozen network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainers.data.images import ImageData, ImageSet
from trainers.data.loader import eval_batches
from trainers.evaluate.sharing import merged, own_rows


def features(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Run a network in evaluation mode over batches of (images, labels).

    Returns:
        Features (N, d), float32, and labels (N,), int64, in the order of the batches, on ``device``. Without any batch
        both are empty, and d is 0.
    """
    outputs, labels = [torch.empty((0, 0), device=device)], [torch.empty(0, dtype=torch.int64, device=device)]
    with _evaluation_mode(network), torch.no_grad():
        for images, batch_labels in batches:
            outputs.append(network(images.to(device)).float())
            labels.append(batch_labels.to(device))
        width = outputs[-1].shape[1]
        outputs[0] = outputs[0].reshape(0, width)
        return torch.cat(outputs), torch.cat(labels)


def image_features(
    network: nn.Module,
    images: ImageSet,
    indices: npt.NDArray[np.int64] | None,
    data: ImageData,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Features (N, d), float32, and labels (N,) of the images with these numbers (all if None), on every process.

    With several processes each computes every world_size-th batch, and all must call. Batches hold the same images
    whatever the number of processes, so the features are the same, bit for bit on equal hardware.
    """
    chosen = np.arange(len(images)) if indices is None else indices
    places = own_rows(len(chosen), batch_size)
    batches = eval_batches(
        images,
        chosen[places],
        batch_size=batch_size,
        size=size,
        device=device,
        mean=data.mean,
        std=data.std,
        workers=workers,
    )
    outputs, _ = features(network, batches, device)
    return merged(outputs, places, len(chosen)), torch.from_numpy(images.labels[chosen]).to(device)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, afterwards each module as it was (parts of a network may be frozen on purpose)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
