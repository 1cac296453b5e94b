"""Decoding files while training or evaluating, in this process or in workers.

Decoding, cropping and resizing happen here, image by image, because files have sizes of their own; colours and
normalisation follow in batches on the device. Memory is bounded by the few batches that workers prepare in advance.

Workers are plain processes that answer through pipes. torch's DataLoader would pass batches through /dev/shm, which
containers keep small, and turns the death of a worker into an exception at an arbitrary line of the training loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from trainers import augment
from trainers.config.views import View
from trainers.data.archive import decode, pixels_of
from trainers.data.images import FileImages
from trainers.rng import Stream
from trainers.stopping import shield_worker

Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

#: Evaluation resizes the shorter side to this multiple of the network's input, then crops the centre (256 for 224).
_EVALUATION_MARGIN = 256 / 224

#: Batches that are decoded in advance, for each worker.
_AHEAD = 2


@dataclass(frozen=True)
class Request:
    """What is delivered together.

    Attributes:
        indices: (B,), numbers of the images in their data set, in order.
        epoch, step: number of the epoch and of the step within it, which decide what is random; 0 where nothing is.
    """

    indices: Ints
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class RandomCrops:
    """Request -> (V, B, 3, S, S): the crops of all views, flipped where the views are."""

    images: FileImages
    views: tuple[View, ...]
    seed: int
    size: int

    def __call__(self, batch: Request) -> Pixels:
        streams = augment.view_streams(
            self.views, seed=self.seed, epoch=batch.epoch, step=batch.step, indices=batch.indices
        )
        result = np.empty((len(self.views), len(batch.indices), 3, self.size, self.size), np.uint8)
        for place, index in enumerate(batch.indices):
            image = decode(self.images.archive, self.images.names[index])
            for number, (view, stream) in enumerate(zip(self.views, streams, strict=True)):
                result[number, place] = _random_crop(image, view, stream.rows(np.array([place])), self.size)
        return result


@dataclass(frozen=True)
class CentreCrops:
    """Request -> (B, 3, S, S): each image resized and cropped as evaluation sees it."""

    images: FileImages
    size: int

    def __call__(self, batch: Request) -> Pixels:
        result = np.empty((len(batch.indices), 3, self.size, self.size), np.uint8)
        for place, index in enumerate(batch.indices):
            result[place] = _centre_crop(decode(self.images.archive, self.images.names[index]), self.size)
        return result


class Decoder:
    """Delivers batches in the order asked for.

    Args:
        crops: decodes a batch; called in the workers, if there are any.
        workers: processes; started at the first batch and kept until :meth:`close`.
    """

    def __init__(self, crops: Callable[[Request], Pixels], *, workers: int) -> None:
        self._crops, self._workers = crops, workers
        self._pool: ProcessPoolExecutor | None = None

    def decode(self, batches: Iterable[Request]) -> Iterator[Tensor]:
        """The decoded batches, uint8, in order.

        Raises:
            DataProblem: an image of the batch cannot be decoded.
            BrokenProcessPool: a worker was killed.
        """
        if not self._workers:
            yield from (torch.from_numpy(self._crops(batch)) for batch in batches)
            return
        pool = self._started_pool()
        pending: deque[Future[Pixels]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(_decode_in_worker, batch))
                if len(pending) > _AHEAD * self._workers:
                    yield torch.from_numpy(pending.popleft().result())
            while pending:
                yield torch.from_numpy(pending.popleft().result())
        finally:  # the epoch may end early
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the workers. The next batch would start new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _started_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Forked workers inherit the list of files, which may be long, instead of receiving it with every batch.
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=get_context("fork"), initializer=_start_worker, initargs=(self._crops,)
            )
        return self._pool


_crops_of_worker: Callable[[Request], Pixels]


def _start_worker(crops: Callable[[Request], Pixels]) -> None:
    global _crops_of_worker  # noqa: PLW0603 (a process of its own: the only way to hand it something that stays)
    _crops_of_worker = crops
    shield_worker()


def _decode_in_worker(batch: Request) -> Pixels:
    return _crops_of_worker(batch)


_PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _random_crop(image: Image.Image, view: View, stream: Stream, size: int) -> Pixels:
    if view.squash is not None:
        image = image.resize((view.squash, view.squash), Image.Resampling.BILINEAR)
    ((top, left, height, width),) = augment.crop_boxes(view, stream, image.height, image.width).tolist()
    crop = image.crop((left, top, left + width, top + height)).resize((size, size), _PIL_FILTERS[view.interpolation])
    if augment.flips(view, stream)[0]:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pixels_of(crop)


def _centre_crop(image: Image.Image, size: int) -> Pixels:
    shorter = round(_EVALUATION_MARGIN * size)
    scale = shorter / min(image.size)
    resized = image.resize(
        (max(shorter, int(image.width * scale)), max(shorter, int(image.height * scale))), Image.Resampling.BILINEAR
    )
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    return pixels_of(resized.crop((left, top, left + size, top + size)))
