"""Decoding files while training or evaluating, in this process or in workers.

Decoding, cropping and resizing happen here, image by image, because files have sizes of their own; colours and
normalisation follow in batches on the device. Memory is bounded by the few batches that workers prepare in advance.

Workers are plain processes with a pipe each. torch's DataLoader would pass batches through /dev/shm, which containers
keep small, and turns the death of a worker into an exception at an arbitrary line of the training loop. An executor of
concurrent.futures has one pipe for all answers, and waits for ever for the rest of one whose worker was killed while it
wrote; here the end of a worker is the end of its pipe.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

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
#: Seconds to wait for the exit code of a worker whose pipe has ended.
_PATIENCE_S = 5.0


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

    def __call__(self, request: Request) -> Pixels:
        streams = augment.view_streams(
            self.views, seed=self.seed, epoch=request.epoch, step=request.step, indices=request.indices
        )
        result = np.empty((len(self.views), len(request.indices), 3, self.size, self.size), np.uint8)
        for place, index in enumerate(request.indices):
            image = decode(self.images.archive, self.images.names[index])
            for number, (view, stream) in enumerate(zip(self.views, streams, strict=True)):
                result[number, place] = _random_crop(image, view, stream.rows(np.array([place])), self.size)
        return result


@dataclass(frozen=True)
class CentreCrops:
    """Request -> (B, 3, S, S): each image resized and cropped as evaluation sees it."""

    images: FileImages
    size: int

    def __call__(self, request: Request) -> Pixels:
        result = np.empty((len(request.indices), 3, self.size, self.size), np.uint8)
        for place, index in enumerate(request.indices):
            result[place] = _centre_crop(decode(self.images.archive, self.images.names[index]), self.size)
        return result


class Decoder:
    """Delivers batches in the order asked for.

    Args:
        crops: decodes a batch; called in the workers, if there are any.
        workers: processes; started at the first batch and kept until :meth:`close`.
    """

    def __init__(self, crops: Callable[[Request], Pixels], *, workers: int) -> None:
        self._crops, self._num_workers = crops, workers
        self._workers: list[_Worker] = []

    def decode(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """The decoded batches, uint8, in order.

        Raises:
            DataProblem: an image of the batch cannot be decoded.
            WorkerDied: a worker was killed.
        """
        if not self._num_workers:
            yield from (torch.from_numpy(self._crops(request)) for request in requests)
            return
        self._start()
        pending: deque[_Worker] = deque()
        try:
            for number, request in enumerate(requests):
                worker = self._workers[number % self._num_workers]
                worker.ask(request)
                pending.append(worker)
                if len(pending) > _AHEAD * self._num_workers:
                    yield torch.from_numpy(pending.popleft().answer())
            while pending:
                yield torch.from_numpy(pending.popleft().answer())
        finally:  # the epoch may end early
            for worker in pending:
                worker.forget()

    def close(self) -> None:
        """End the workers. The next batch would start new ones."""
        self._workers.clear()

    def _start(self) -> None:
        while len(self._workers) < self._num_workers:
            self._workers.append(_Worker(self._crops))


class WorkerDied(RuntimeError):
    """A process that decodes images was killed, or has crashed."""


class _Worker:
    """A process that answers requests in their order. It is killed when nobody refers to it any more."""

    def __init__(self, crops: Callable[[Request], Pixels]) -> None:
        # A forked worker inherits the list of files, which may be long, instead of receiving it with every batch.
        context = get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(crops, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()  # so that the worker holds the only other end
        self._num_forgotten = 0
        weakref.finalize(self, _end, self._process, self._pipe)

    def ask(self, request: Request) -> None:
        """Queue a request."""
        try:
            self._pipe.send(request)
        except OSError as error:
            raise self._death() from error

    def forget(self) -> None:
        """Do without the answer to one request."""
        self._num_forgotten += 1

    def answer(self) -> Pixels:
        """The answer to the oldest request that is not forgotten.

        Raises:
            DataProblem: what the worker raised.
            WorkerDied: it did not answer.
        """
        try:
            for _ in range(self._num_forgotten):
                self._pipe.recv()
            self._num_forgotten = 0
            answer: Pixels | Exception = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self) -> WorkerDied:
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        how = f"was killed by signal {-code} (out of memory?)" if code is not None and code < 0 else f"ended ({code})"
        return WorkerDied(f"a process that decodes images {how}")


def _end(process: ForkProcess, pipe: Connection) -> None:
    process.kill()  # it holds nothing that could be lost
    process.join()
    pipe.close()


def _work(crops: Callable[[Request], Pixels], pipe: Connection, parents_end: Connection) -> None:
    """Answer requests until the parent is gone."""
    shield_worker()
    parents_end.close()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer: Pixels | Exception = crops(request)
        except Exception as error:  # noqa: BLE001 (raised again where the batch is used)
            answer = error
        pipe.send(answer)


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
