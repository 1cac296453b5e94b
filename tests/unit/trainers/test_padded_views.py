"""Crops from an image with a black border, as CIFAR's supervised training and SDCLR's probes draw them."""

import numpy as np
import torch
import torch.nn.functional as F

from trainers import augment
from trainers.augment import crop_boxes, flips
from trainers.config.views import PAD_AND_FLIP
from trainers.rng import Stream

COUNT = 200
STREAM = Stream.of(1, 2, 0, np.arange(COUNT))


def test_a_crop_is_a_window_of_the_image_with_its_border() -> None:
    images = torch.rand((COUNT, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    (views,) = augment.draw_views(images, (PAD_AND_FLIP,), (STREAM,), size=16, mean=(0, 0, 0), std=(1, 1, 1))
    mirrored = flips(PAD_AND_FLIP, STREAM)
    for number, (top, left, height, width) in enumerate(crop_boxes(PAD_AND_FLIP, STREAM, 16, 16)):
        assert (height, width) == (16, 16)
        window = F.pad(images[number], (4, 4, 4, 4))[:, top + 4 : top + 20, left + 4 : left + 20]
        expected = window.flip(2) if mirrored[number] else window
        torch.testing.assert_close(views[number], expected)


def test_every_shift_up_to_the_border_occurs_and_no_other() -> None:
    corners = crop_boxes(PAD_AND_FLIP, Stream.of(0, 0, 0, np.arange(2000)), 32, 32)[:, :2]
    assert set(corners[:, 0]) == set(corners[:, 1]) == set(range(-4, 5))
    assert abs(corners.mean()) < 0.1
