"""Crops: where they lie, and their pixels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.augment import draws
from trainers.augment.draws import Ints, between
from trainers.augment.layout import on_device
from trainers.config.views import View
from trainers.rng import Stream

Flags = npt.NDArray[np.bool_]
Interpolation = Literal["bilinear", "bicubic"]


def crop_boxes(view: View, stream: Stream, heights: int | Ints, widths: int | Ints) -> Ints:
    """A random crop of each image, by the rule of torchvision's RandomResizedCrop.

    Up to ten times an area and a ratio are drawn and rounded to whole pixels, until the box fits into the image; if
    none does, the largest centred box with an admissible ratio is taken.

    Args:
        heights, widths: of the images, in pixels: one number for all, or (B,). Of no consequence to a view that
            squashes them.

    Returns:
        (B, 4): top, left, height, width, in the image as it is after ``view.squash``; with ``view.padding``, part of
        the box may lie outside, where the image counts as black.
    """
    count = len(stream.keys)
    if view.squash is not None:
        heights = widths = view.squash
    heights = np.broadcast_to(np.asarray(heights, np.int64), count)
    widths = np.broadcast_to(np.asarray(widths, np.int64), count)
    if view.padding is not None:
        corners = np.floor(stream.uniform(draws.POSITION, 2) * (2 * view.padding + 1)).astype(np.int64) - view.padding
        return np.concatenate([corners, np.stack([heights, widths], axis=1)], axis=1)
    box_heights, box_widths = _fallback_sizes(view, heights, widths)
    low, high = math.log(view.crop_ratio[0]), math.log(view.crop_ratio[1])
    drawn = np.zeros(count, np.bool_)
    waiting = np.arange(count)
    for attempt in range(draws.CROP_TRIES):
        random = stream.rows(waiting).uniform(draws.CROP + 2 * attempt, 2)
        area = heights[waiting] * widths[waiting] * between(random[:, 0], *view.crop_area)
        ratio = np.exp(between(random[:, 1], low, high))
        tried_widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        tried_heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (tried_widths > 0) & (tried_widths <= widths[waiting])
        fits &= (tried_heights > 0) & (tried_heights <= heights[waiting])
        chosen = waiting[fits]
        box_heights[chosen], box_widths[chosen] = tried_heights[fits], tried_widths[fits]
        drawn[chosen] = True
        waiting = waiting[~fits]
        if not len(waiting):
            break
    free = np.stack([heights - box_heights, widths - box_widths], axis=1)
    anywhere = np.floor(stream.uniform(draws.POSITION, 2) * (free + 1)).astype(np.int64)
    corners = np.where(drawn[:, None], anywhere, free // 2)
    return np.concatenate([corners, np.stack([box_heights, box_widths], axis=1)], axis=1)


def flips(view: View, stream: Stream) -> Flags:
    """Which images are mirrored left to right, (B,)."""
    return draws.happens(stream, draws.FLIP, view.flip_probability)


def _fallback_sizes(view: View, heights: Ints, widths: Ints) -> tuple[Ints, Ints]:
    """Height and width of the largest box of each image whose ratio is admissible."""
    smallest, largest = view.crop_ratio
    ratio = widths / heights
    box_heights = np.where(ratio < smallest, np.rint(widths / smallest).astype(np.int64), heights)
    box_widths = np.where(ratio > largest, np.rint(heights * largest).astype(np.int64), widths)
    return box_heights, box_widths


def cropped(pixels: Tensor, view: View, stream: Stream, size: int) -> Tensor:
    """Squash, crop, resize and mirror each image as its view asks: (B, H, 3, W) to a new (B, size, 3, size)."""
    height, width = pixels.shape[1], pixels.shape[3]
    boxes = crop_boxes(view, stream, height, width)
    # One transfer for everything that was drawn.
    drawn = np.concatenate([boxes, flips(view, stream)[:, None]], axis=1).astype(np.float32)
    top, left, box_height, box_width, mirror = on_device(drawn, pixels).unbind(1)
    tall, wide = (height, width) if view.squash is None else (view.squash, view.squash)
    rows = _interpolation(top, box_height, torch.zeros_like(mirror), tall, size, view.interpolation)
    columns = _interpolation(left, box_width, mirror, wide, size, view.interpolation)
    if view.squash is not None:  # two linear maps in a row are one
        rows = rows @ _whole(height, view.squash, pixels.device)
        columns = columns @ _whole(width, view.squash, pixels.device)
    result = _resampled(pixels, rows, columns)
    return result.clamp_(0, 1) if view.interpolation == "bicubic" else result


def resized(pixels: Tensor, size: int) -> Tensor:
    """Resize whole images: (B, H, 3, W) to a new (B, size, 3, size)."""
    count, height, _, width = pixels.shape
    rows, columns = (_whole(side, size, pixels.device).expand(count, -1, -1) for side in (height, width))
    return _resampled(pixels, rows, columns)


def _resampled(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, H, 3, W), with (B, S, H) from the left and (B, S, W) from the right, to (B, S, 3, S)."""
    count, height, channels, width = pixels.shape
    size = rows.shape[1]
    tall = torch.bmm(rows, pixels.view(count, height, channels * width))
    wide = torch.bmm(tall.view(count, size * channels, width), columns.transpose(1, 2))
    return wide.view(count, size, channels, size)


def _whole(old_size: int, new_size: int, device: torch.device) -> Tensor:
    """Bilinear interpolation of a whole side: (1, new_size, old_size)."""
    zero = torch.zeros(1, device=device)
    return _interpolation(zero, zero + old_size, zero, old_size, new_size, "bilinear")


def _interpolation(
    start: Tensor, length: Tensor, mirror: Tensor, old_size: int, new_size: int, kind: Interpolation
) -> Tensor:
    """Antialiased interpolation along one axis, as PIL does it: (B, new_size, old_size). Rows sum to 1, outside to 0.

    The filter is widened by the factor of reduction, centred on the new pixel, cut off at the edges of the box and
    normalised. Mirroring costs nothing here: it counts the new pixels from the other end.

    Args:
        start, length: (B,), the part of the old axis that is seen, in whole pixels.
        mirror: (B,), 1 where the axis is turned round, else 0.
    """
    start, length, mirror = start[:, None, None], length[:, None, None], mirror[:, None, None]
    scale = length / new_size
    old = torch.arange(old_size, device=start.device, dtype=torch.float32) + 0.5  # centres of pixels
    new = torch.arange(new_size, device=start.device, dtype=torch.float32)[:, None] + 0.5
    new = new + mirror * (new_size - 2 * new)  # (B, new, 1)
    reach = scale.clamp(min=1.0)
    distance = (old / reach - (start + new * scale) / reach).abs_()
    weights = distance.neg_().add_(1.0).clamp_(min=0.0) if kind == "bilinear" else _cubic(distance)
    weights.mul_(((old > start) & (old < start + length)).float())
    # A pixel that lies wholly outside the image has no weights, and is black.
    return weights.div_(weights.sum(dim=2, keepdim=True).clamp_(min=torch.finfo(weights.dtype).tiny))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2 (1981, equation 15), at distances of 0 and more."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
