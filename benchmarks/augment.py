"""Two-view augmentation of decoded images: this repository's batches beside torchvision's transforms, image by image.

Run: ``python benchmarks/augment.py [--size 32] [--batch 256] [--pairs 5] [--threads 1]``

Both draw MoCo v2's views (or another method's, ``--views``) of the same random images on the CPU. The two are measured
in turn, pair by pair, so that a busy machine slows both; the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from trainers import augment
from trainers.config import views
from trainers.config.views import View

VIEWS: dict[str, tuple[View, View]] = {
    "moco_v2": (views.MOCO_V2, views.MOCO_V2),
    "isd_weak": (views.ISD_VIEWS["strong"], views.ISD_VIEWS["weak"]),
    "moco_v3": (views.MOCO_V3_FIRST, views.MOCO_V3_SECOND),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5, help="repetitions of both measurements")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--views", choices=VIEWS, default="moco_v2")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    random = np.random.default_rng(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8))
    pair = VIEWS[arguments.views]
    ours = batched(images, pair, arguments.size)
    theirs = one_by_one(images, pair, arguments.size)
    ours(), theirs()  # warm up
    measured = [(speed(ours, arguments.batch, 8), speed(theirs, arguments.batch, 1)) for _ in range(arguments.pairs)]
    print(f"views of {arguments.views}, {arguments.size} px, batch {arguments.batch}, {arguments.threads} thread(s)")
    print(f"this repository  {statistics.median(first for first, _ in measured):8,.0f} images/s, two views each")
    print(f"torchvision v2   {statistics.median(second for _, second in measured):8,.0f} images/s, two views each")
    print(f"ratio            {statistics.median(first / second for first, second in measured):8.1f}")


def batched(images: Tensor, pair: tuple[View, View], size: int) -> Callable[[], None]:
    """This repository: the whole batch at once."""
    indices = np.arange(len(images))

    def run() -> None:
        streams = augment.view_streams(pair, seed=0, epoch=0, step=0, indices=indices)
        augment.draw_views(images, pair, streams, size=size, mean=MEAN, std=STD)

    return run


def one_by_one(images: Tensor, pair: tuple[View, View], size: int) -> Callable[[], None]:
    """The usual way: a chain of torchvision transforms for each image and view."""
    chains = [chain(view, size) for view in pair]

    def run() -> None:
        for transform in chains:
            torch.stack([transform(image) for image in images])

    return run


def chain(view: View, size: int) -> Callable[[Tensor], Tensor]:
    """torchvision's spelling of a view."""
    radius = int(np.ceil(3 * view.blur_sigma[1]))
    blur = v2.GaussianBlur(2 * radius + 1, view.blur_sigma)
    steps = [
        v2.RandomResizedCrop(size, scale=view.crop_area, ratio=view.crop_ratio, antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([v2.ColorJitter(*view.jitter)], p=view.jitter_probability),
        v2.RandomGrayscale(p=view.grayscale_probability),
        v2.RandomApply([blur], p=view.blur_probability),
        v2.RandomSolarize(view.solarize_threshold, p=view.solarize_probability),
        v2.RandomHorizontalFlip(p=view.flip_probability),
        v2.Normalize(MEAN, STD),
    ]
    composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return composed


def speed(run: Callable[[], None], images: int, repetitions: int) -> float:
    """Images per second."""
    started = time.perf_counter()
    for _ in range(repetitions):
        run()
    return images * repetitions / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
