"""Decoding files while training or evaluating, in this process or in workers.

Decoding, cropping and resizing happen here, image by image, because files have sizes of their own; colours and
normalisation follow in batches on the device. Memory is bounded by the few batches that workers prepare in advance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainers import augment
from trainers.data.archive import decode, pixels_of
from trainers.data.images import FileImages
from trainers.data.problem import DataProblem
from trainers.rng import Stream
from trainers.stopping import shield_worker
from trainers.views import View

Ints = npt.NDArray[np.int64]

#: Evaluation resizes the shorter side to this multiple of the network's input, then crops the centre (256 for 224).
_EVALUATION_MARGIN = 256 / 224


@dataclass(frozen=True)
class Batch:
    """What a worker is asked for: these images, in this order, in this epoch."""

    epoch: int
    indices: Ints


class RandomCrops(Dataset[Any]):
    """Batch -> (2, B, 3, S, S), uint8: the crops of both views, flipped where the views are."""

    def __init__(self, images: FileImages, views: tuple[View, View], seed: int, size: int) -> None:
        self._images, self._views, self._seed, self._size = images, views, seed, size

    def __getitem__(self, batch: Batch) -> Tensor | DataProblem:
        result = torch.empty((2, len(batch.indices), 3, self._size, self._size), dtype=torch.uint8)
        try:
            for place, index in enumerate(batch.indices):
                image = decode(self._images.archive, self._images.names[index])
                for number, view in enumerate(self._views):
                    stream = Stream.of(self._seed, batch.epoch, number, np.array([index]))
                    result[number, place] = _random_crop(image, view, stream, self._size)
        except DataProblem as problem:
            return problem  # an exception would arrive as a traceback of the worker; this arrives as it is
        return result


class CentreCrops(Dataset[Any]):
    """Batch -> (B, 3, S, S), uint8: each image resized and cropped as evaluation sees it."""

    def __init__(self, images: FileImages, size: int) -> None:
        self._images, self._size = images, size

    def __getitem__(self, batch: Batch) -> Tensor | DataProblem:
        result = torch.empty((len(batch.indices), 3, self._size, self._size), dtype=torch.uint8)
        try:
            for place, index in enumerate(batch.indices):
                image = decode(self._images.archive, self._images.names[index])
                result[place] = _centre_crop(image, self._size)
        except DataProblem as problem:
            return problem
        return result


class Decoder:
    """Delivers batches of a data set in the order asked for. Workers, if any, are started once and kept."""

    def __init__(self, dataset: Dataset[Any], *, workers: int, pinned: bool) -> None:
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=_shield,
        )

    def decode(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """The decoded batches, in order.

        Raises:
            DataProblem: an image of the batch cannot be decoded.
        """
        self._order.batches = list(batches)
        for result in self._loader:
            if isinstance(result, DataProblem):
                raise result
            yield result


class _Order(Sampler[Batch]):
    """What the loader delivers next; replaced before each pass, because persistent workers belong to one loader."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _shield(_worker: int) -> None:
    """A signal that asks the whole job to stop must not kill the workers: the trainer still finishes its step."""
    shield_worker()


def _random_crop(image: Image.Image, view: View, stream: Stream, size: int) -> Tensor:
    ((top, left, height, width),) = augment.crop_boxes(view, stream, image.height, image.width).tolist()
    crop = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    if augment.flips(view, stream)[0]:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.tensor(pixels_of(crop))


def _centre_crop(image: Image.Image, size: int) -> Tensor:
    shorter = round(_EVALUATION_MARGIN * size)
    scale = shorter / min(image.size)
    resized = image.resize(
        (max(shorter, int(image.width * scale)), max(shorter, int(image.height * scale))), Image.Resampling.BILINEAR
    )
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    return torch.tensor(pixels_of(resized.crop((left, top, left + size, top + size))))
