"""Views of whole batches, from images as they are or from crops that were made while decoding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainers.augment.colour import coloured
from trainers.augment.geometry import cropped, resized
from trainers.augment.layout import normalised, rows_first
from trainers.config.views import View
from trainers.rng import Stream


def draw_views(
    images: Tensor,
    views: Sequence[View],
    streams: Sequence[Stream],
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Tensor, ...]:
    """Draw the views of a batch of equally large images.

    Args:
        images: (B, 3, H, W), uint8, or float in [0, 1].
        views: how each view is drawn.
        streams: for each view, everything random about it (:func:`trainers.augment.view_streams`).
        size: side of the views, in pixels.
        mean, std: of each channel, subtracted and divided by.

    Returns:
        For each view (B, 3, size, size), float32, normalised, contiguous, on the device of ``images``.
    """
    pixels = rows_first(images)
    return tuple(
        normalised(coloured(cropped(pixels, view, stream, size), view, stream), mean, std)
        for view, stream in zip(views, streams, strict=True)
    )


def draw_views_of_crops(
    crops: Sequence[Tensor],
    views: Sequence[View],
    streams: Sequence[Stream],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Tensor, ...]:
    """As :func:`draw_views` for images that were squashed, cropped, resized and flipped while they were decoded.

    Args:
        crops: for each view (B, 3, S, S), uint8, cropped to :func:`trainers.augment.crop_boxes` and flipped by
            :func:`trainers.augment.flips`.
    """
    return tuple(
        normalised(coloured(rows_first(crop), view, stream), mean, std)
        for crop, view, stream in zip(crops, views, streams, strict=True)
    )


def resize_and_normalise(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images as evaluation sees them: (B, 3, H, W) to (B, 3, size, size), float32, normalised, nothing random."""
    pixels = rows_first(images)
    if images.shape[2:] != (size, size):
        pixels = resized(pixels, size)
    return normalised(pixels, mean, std)
