"""Representations of images by a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainers import rng
from trainers.backbones import VisionTransformer
from trainers.config.views import View
from trainers.data.images import ImageData, ImageSet
from trainers.data.loader import eval_batches, view_batches
from trainers.distributed import rank, world_size
from trainers.evaluate.sharing import merged, own_rows

Ints = npt.NDArray[np.int64]
#: Features (N, d) or (N, L, d), and labels (N,).
Labelled = tuple[Tensor, Tensor]

#: Memory for the features of several blocks at once.
_BLOCKS_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read for an evaluation, whatever the protocol.

    Attributes:
        size: side of the square images in pixels.
        batch_size: images that go through the network at once.
        mean, std: of each channel, as the network was trained with.
        workers: processes that decode images.
        between_batches: called before each batch and each step of a classifier; raises if the run is to stop, because
            an evaluation can take longer than the time that a preempted job is given.
    """

    size: int
    batch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    workers: int = 0
    between_batches: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network and the images that it is evaluated on. It runs in evaluation mode and without gradient.

    With several processes each computes every world_size-th batch, all must call, and all get the same: batches hold
    the same images whatever the number of processes, so that the features are equal, bit for bit on equal hardware.

    Attributes:
        network: (B, 3, S, S) -> (B, d), or (B, L, d) for the representations of L blocks at once. It is left in the
            mode in which it was found.
    """

    network: nn.Module
    images: ImageData
    reading: Reading

    @cached_property
    def train(self) -> Labelled:
        """Features (N, ...), float32, and labels (N,) of every labelled training image; computed once."""
        return self.of_training_images(labelled(self.images.train))

    @cached_property
    def test(self) -> Labelled:
        """Features (M, ...), float32, and labels (M,) of the test images; computed once."""
        return self._plain(self.images.test, np.arange(len(self.images.test)))

    def of_training_images(self, indices: Ints) -> Labelled:
        """Features (n, ...), float32, and labels (n,) of some training images as they are, in the order asked for."""
        return self._plain(self.images.train, indices)

    def of_test_views(self, indices: Ints, view: View, *, seed: int, epoch: int) -> Tensor:
        """Features (n, ...) of one random view of each of some test images, in the order of ``indices``."""
        batches = self._views(self.images.test, indices, view, seed=seed, epoch=epoch, batch_size=self._batch_size)
        visited = torch.cat([outputs for outputs, _ in batches])
        ordered = torch.empty_like(visited)
        ordered[torch.from_numpy(rng.epoch_permutation(seed, epoch, len(indices))).to(visited.device)] = visited
        return ordered

    def of_training_views(
        self, indices: Ints, view: View, *, seed: int, epoch: int, batch_size: int
    ) -> Iterator[Labelled]:
        """One epoch of new random views of some training images: features (B, ...) and labels (B,), in random order."""
        return self._views(self.images.train, indices, view, seed=seed, epoch=epoch, batch_size=batch_size)

    def by_blocks(self, *, keeping_features: bool) -> Iterator[tuple[range, FrozenNetwork]]:
        """Every block of a vision transformer: numbers of blocks, from 0, and the network that gives them, (B, L, d).

        Args:
            keeping_features: whether those of all training images are kept; then only as many blocks come at once as a
                few gigabytes can hold, and otherwise all.
        """
        assert isinstance(self.network, VisionTransformer)
        depth = self.network.depth
        bytes_per_block = 4 * self.network.dim * len(self.images.train)
        at_once = max(1, _BLOCKS_BYTES // bytes_per_block) if keeping_features else depth
        for first in range(0, depth, at_once):
            blocks = range(first, min(first + at_once, depth))
            yield blocks, replace(self, network=Layers(self.network, blocks))

    @property
    def _batch_size(self) -> int:
        return self.reading.batch_size

    def _plain(self, images: ImageSet, indices: Ints) -> Labelled:
        places = own_rows(len(indices), self._batch_size)
        reading = self.reading
        batches = eval_batches(
            images,
            indices[places],
            batch_size=self._batch_size,
            size=reading.size,
            device=reading.device,
            mean=reading.mean,
            std=reading.std,
            workers=reading.workers,
        )
        outputs = [self._forward(pixels) for pixels, _ in batches]
        rows = torch.cat(outputs) if outputs else torch.empty((0, 0), device=reading.device)
        return merged(rows, places, len(indices)), torch.from_numpy(images.labels[indices]).to(reading.device)

    def _views(
        self, images: ImageSet, indices: Ints, view: View, *, seed: int, epoch: int, batch_size: int
    ) -> Iterator[Labelled]:
        """Each round, every process computes one whole batch, and all get the batches of all in order."""
        reading = self.reading
        own_batches = view_batches(
            images,
            indices,
            view,
            epoch=epoch,
            seed=seed,
            batch_size=batch_size,
            size=reading.size,
            device=reading.device,
            mean=reading.mean,
            std=reading.std,
            workers=reading.workers,
            rank=rank(),
            world_size=world_size(),
        )
        for start in range(0, len(indices), batch_size * world_size()):
            count = min(batch_size * world_size(), len(indices) - start)
            places = own_rows(count, batch_size)
            outputs = torch.empty((0, 0), device=reading.device)
            labels = torch.empty(0, dtype=torch.int64, device=reading.device)
            if len(places):
                pixels, labels = next(own_batches)
                outputs = self._forward(pixels)
            outputs, labels = merged(outputs, places, count), merged(labels, places, count)
            yield from zip(torch.split(outputs, batch_size), torch.split(labels, batch_size), strict=True)

    def _forward(self, pixels: Tensor) -> Tensor:
        self.reading.between_batches()
        with evaluation_mode(self.network), torch.no_grad():
            outputs: Tensor = self.network(pixels)
            return outputs.float()


class Layers(nn.Module):
    """Some blocks of a vision transformer at once.

    Args:
        blocks: their numbers, from 0.
    """

    def __init__(self, backbone: VisionTransformer, blocks: range) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = blocks

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, L, d), the L chosen blocks."""
        layers = self.backbone.forward_layers(images)
        return layers[self.blocks.start : self.blocks.stop].transpose(0, 1)


def labelled(images: ImageSet) -> Ints:
    """Numbers of the images that have a label (those of STL-10's unlabelled part have -1)."""
    return np.flatnonzero(images.labels >= 0)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, afterwards each module as it was (parts of a network may be frozen on purpose)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
