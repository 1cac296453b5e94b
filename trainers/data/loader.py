"""Batches: augmented views for training, plain images for evaluation.

Which image goes where is arithmetic on (seed, epoch, step, rank), so an epoch can begin at any step, and neither the
number of processes nor the number of loading workers changes a bit of the global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers import augment, rng
from trainers.batch import Batch
from trainers.config import RunConfig, method_views
from trainers.config.views import View
from trainers.data.decoding import CentreCrops, Decoder, RandomCrops, Request
from trainers.data.images import ArrayImages, FileImages, ImageData, ImageSet
from trainers.data.problem import DataProblem
from trainers.data.subset import Subset
from trainers.rng import Stream

Ints = npt.NDArray[np.int64]

#: Decoded training images up to this size are kept on the GPU, so that no pixel travels during training.
_RESIDENT_BYTES = 2 << 30


class TrainLoader:
    """The training batches of one rank.

    Args:
        data: the data set; ``subset`` numbers its training images.
        subset: the images to train on.
        config: of the run: batch size, seed, views, image size, workers.
        rank, world_size: this process and the number of processes.
        device: where the views are computed and delivered.

    Attributes:
        steps_per_epoch: whole batches in the subset; what is left over is visited in another epoch's order.

    Raises:
        DataProblem: the subset is smaller than one batch.
        ValueError: the processes cannot share the batch equally.
    """

    def __init__(
        self, data: ImageData, subset: Subset, config: RunConfig, *, rank: int, world_size: int, device: torch.device
    ) -> None:
        batch_size, parts = config.train.batch_size, config.train.accumulation
        if batch_size % (parts * world_size):
            divided = "" if parts == 1 else f" in train.accumulation={parts} parts"
            raise ValueError(
                f"train.batch_size={batch_size}{divided} cannot be divided equally by {world_size} processes"
            )
        if batch_size > len(subset):
            raise DataProblem(
                f"train.batch_size={batch_size} is larger than the {len(subset)} training images that data.profile "
                f"selects from {data.source}; use a smaller batch or more images"
            )
        self.steps_per_epoch = len(subset) // batch_size
        self._subset, self._seed, self._batch_size = subset, config.seed, batch_size
        self._rank, self._world_size, self._device = rank, world_size, device
        self._labels = data.train.labels
        recipe = _Recipe(method_views(config), config.seed, config.data.side, data.mean, data.std, device)
        self._views = _view_source(data.train, recipe, config.runtime.workers, keep_on_device=True)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_step`` on, without computing those before.

        Yields:
            This rank's share of each global batch, views in float32 and normalised.

        Raises:
            DataProblem: an image cannot be decoded.
        """
        order = rng.epoch_permutation(self._seed, epoch, len(self._subset))
        requests = [self._share(order, epoch, step) for step in range(first_step, self.steps_per_epoch)]
        for request, views in zip(requests, self._views.of(requests), strict=True):
            yield Batch(views, _on_device(self._labels[request.indices], self._device))

    def _share(self, order: Ints, epoch: int, step: int) -> Request:
        whole = order[step * self._batch_size : (step + 1) * self._batch_size]
        return Request(self._subset.indices[whole[self._rank :: self._world_size]], epoch, step)


def view_batches(
    images: ImageSet,
    indices: Ints,
    view: View,
    *,
    epoch: int,
    seed: int,
    batch_size: int,
    size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of random views of some images with their labels: what a linear probe trains on.

    Args:
        indices: (N,), the images to visit, each once.
        view: how each is drawn.
        epoch, seed: decide the order and the views. Choose a seed (:func:`trainers.rng.derive`) that differs from the
            run's, or the probe sees the very crops that the run was trained on.
        drop_last: leave out a last batch that is not full.
        rank, world_size: this process gets the batches number ``rank``, ``rank + world_size``, ...

    Yields:
        Images (B, 3, size, size), float32, normalised, and labels (B,), int64, both on ``device``; the same on every
        process that asks for the same.

    Raises:
        DataProblem: an image cannot be decoded.
    """
    order = indices[rng.epoch_permutation(seed, epoch, len(indices))]
    end = len(order) - len(order) % batch_size if drop_last else len(order)
    requests = [
        Request(order[start : start + batch_size], epoch, step) for step, start in enumerate(range(0, end, batch_size))
    ]
    own_requests = requests[rank::world_size]
    recipe = _Recipe((view,), seed, size, mean, std, device)
    with closing(_view_source(images, recipe, workers, keep_on_device=False)) as source:
        for request, (pixels,) in zip(own_requests, source.of(own_requests), strict=True):
            yield pixels, _on_device(images.labels[request.indices], device)


def eval_batches(
    images: ImageSet,
    indices: Ints | None,
    *,
    batch_size: int,
    size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as they are, in the order of ``indices`` (all in order if None), the last batch possibly short.

    Decoded images are resized to ``size`` if they have another; files are resized to 256/224 of it and cropped.

    Yields:
        Images (B, 3, size, size), float32, normalised, and labels (B,), int64, both on ``device``.

    Raises:
        DataProblem: an image cannot be decoded.
    """
    chosen = np.arange(len(images)) if indices is None else indices
    batches = [Request(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)]
    for batch, pixels in zip(batches, _plain_pixels(images, batches, size, workers), strict=True):
        labels = torch.from_numpy(images.labels[batch.indices]).to(device)
        yield augment.resize_and_normalise(_moved(pixels, device), size, mean, std), labels


def _plain_pixels(images: ImageSet, batches: list[Request], size: int, workers: int) -> Iterator[Tensor]:
    if isinstance(images, ArrayImages):
        yield from (torch.from_numpy(_gather(images, batch.indices)) for batch in batches)
        return
    decoder = Decoder(CentreCrops(images, size), workers=workers)
    try:
        yield from decoder.decode(batches)
    finally:
        decoder.close()


def _on_device(labels: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(labels).to(device, non_blocking=True)


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    """On the device; the copy to a GPU runs beside what the GPU is doing."""
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels


def _gather(images: ArrayImages, indices: Ints) -> npt.NDArray[np.uint8]:
    """(B, 3, H, W), in memory."""
    return np.take(images.pixels, indices, axis=0)


@dataclass(frozen=True)
class _Recipe:
    """What turns images into views, besides the images."""

    views: tuple[View, ...]
    seed: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device

    def streams(self, request: Request) -> tuple[Stream, ...]:
        """Everything random about the views of these images."""
        return augment.view_streams(
            self.views, seed=self.seed, epoch=request.epoch, step=request.step, indices=request.indices
        )


class _ViewSource(Protocol):
    def of(self, requests: Sequence[Request]) -> Iterator[tuple[Tensor, ...]]:
        """The views of each request."""

    def close(self) -> None:
        """End what works in the background."""


def _view_source(images: ImageSet, recipe: _Recipe, workers: int, *, keep_on_device: bool) -> _ViewSource:
    if isinstance(images, ArrayImages):
        return _ArrayViews(images, recipe, keep_on_device)
    return _FileViews(images, recipe, workers)


class _ArrayViews:
    """Views of decoded images. Workers would only copy, so there are none.

    Args:
        keep_on_device: copy the images to a GPU once and for all, if there are not too many.
    """

    def __init__(self, images: ArrayImages, recipe: _Recipe, keep_on_device: bool) -> None:
        self._images, self._recipe = images, recipe
        self._resident = None
        if keep_on_device and recipe.device.type == "cuda" and images.pixels.nbytes <= _RESIDENT_BYTES:
            self._resident = torch.from_numpy(np.array(images.pixels)).to(recipe.device)

    def of(self, requests: Sequence[Request]) -> Iterator[tuple[Tensor, ...]]:
        recipe = self._recipe
        for request in requests:
            yield augment.draw_views(
                self._pixels(request.indices),
                recipe.views,
                recipe.streams(request),
                size=recipe.size,
                mean=recipe.mean,
                std=recipe.std,
            )

    def close(self) -> None:
        """Nothing works in the background."""

    def _pixels(self, indices: Ints) -> Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(indices).to(self._recipe.device, non_blocking=True)]
        return _moved(torch.from_numpy(_gather(self._images, indices)), self._recipe.device)


class _FileViews:
    """Views of files: cropped while decoding, coloured on the device."""

    def __init__(self, images: FileImages, recipe: _Recipe, workers: int) -> None:
        self._recipe = recipe
        crops = RandomCrops(images, recipe.views, recipe.seed, recipe.size)
        self._decoder = Decoder(crops, workers=workers)

    def of(self, requests: Sequence[Request]) -> Iterator[tuple[Tensor, ...]]:
        recipe = self._recipe
        for request, crops in zip(requests, self._decoder.decode(requests), strict=True):
            yield augment.draw_views_of_crops(
                _moved(crops, recipe.device).unbind(0),
                recipe.views,
                recipe.streams(request),
                mean=recipe.mean,
                std=recipe.std,
            )

    def close(self) -> None:
        self._decoder.close()
