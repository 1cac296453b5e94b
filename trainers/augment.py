"""Random views of a batch of images, on whatever device the images are on.

One description serves CPU and GPU: the parameters of every image are drawn on the host, all images at once, from
:class:`trainers.rng.Stream`; the pixels are then computed in batches by a few dense operations. Each operation computes
what torchvision computes on float tensors (tests compare them), one image at a time there.

Inside this module pixels are laid out as (B, H, 3, W). Resizing and blurring are products with one matrix per image
from the left (rows) and from the right (columns), and in this layout both are batched matrix products without a copy.
Selections of images are made from host arrays, so that nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.config.views import View
from trainers.rng import Stream

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: ITU-R 601 luma, as torchvision rounds it.
_LUMA = (0.2989, 0.587, 0.114)

_CROP_TRIES = 10
# Which draw of an image's stream decides what. Never renumber: every number of every run depends on it.
_DRAW_CROP = 0  # area and ratio of each try
_DRAW_POSITION = 2 * _CROP_TRIES
_DRAW_FLIP = 22
_DRAW_JITTER = 23
_DRAW_ORDER = 24
_DRAW_FACTORS = 28
_DRAW_GRAYSCALE = 32
_DRAW_BLUR = 33
_DRAW_SIGMA = 34
_DRAW_SOLARIZE = 35


def draw_views(
    images: Tensor,
    views: tuple[View, ...],
    *,
    seed: int,
    epoch: int,
    indices: Ints,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Tensor, ...]:
    """Draw the views of a batch of equally large images.

    Args:
        images: (B, 3, H, W), uint8, or float in [0, 1].
        views: how each view is drawn.
        seed, epoch: the run's seed, and the number of the epoch.
        indices: (B,), number of each image in its data set. With seed and epoch they decide everything random.
        size: side of the views, in pixels.
        mean, std: of each channel, subtracted and divided by.

    Returns:
        For each view (B, 3, size, size), float32, normalised, contiguous, on the device of ``images``.
    """
    pixels = _rows_first(images)
    height, width = images.shape[2:]
    results = []
    for number, view in enumerate(views):
        stream = Stream.of(seed, epoch, number, indices)
        boxes = crop_boxes(view, stream, height, width)
        cropped = _resample(pixels, boxes, flips(view, stream), size)
        results.append(_normalised(_coloured(cropped, view, stream), mean, std))
    return tuple(results)


def draw_views_of_crops(
    crops: Sequence[Tensor],
    views: tuple[View, ...],
    *,
    seed: int,
    epoch: int,
    indices: Ints,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Tensor, ...]:
    """As :func:`draw_views` for images that were cropped, resized and flipped while they were decoded.

    Args:
        crops: for each view (B, 3, S, S), uint8, cropped to :func:`crop_boxes` and flipped by :func:`flips`.
    """
    results = []
    for number, (crop, view) in enumerate(zip(crops, views, strict=True)):
        stream = Stream.of(seed, epoch, number, indices)
        results.append(_normalised(_coloured(_rows_first(crop), view, stream), mean, std))
    return tuple(results)


def resize_and_normalise(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images as evaluation sees them: (B, 3, H, W) to (B, 3, size, size), float32, normalised, nothing random."""
    pixels = _rows_first(images)
    count, height, _, width = pixels.shape
    if (height, width) != (size, size):
        whole = np.tile(np.array([0, 0, height, width], np.int64), (count, 1))
        pixels = _resample(pixels, whole, np.zeros(count, np.bool_), size)
    return _normalised(pixels, mean, std)


# --- geometry --------------------------------------------------------------------------------------------------------


def crop_boxes(view: View, stream: Stream, heights: int | Ints, widths: int | Ints) -> Ints:
    """A random crop of each image, by the rule of torchvision's RandomResizedCrop.

    Up to ten times an area and a ratio are drawn and rounded to whole pixels, until the box fits into the image; if
    none does, the largest centred box with an admissible ratio is taken.

    Args:
        heights, widths: of the images, in pixels: one number for all, or (B,).

    Returns:
        (B, 4): top, left, height, width.
    """
    count = len(stream.keys)
    heights = np.broadcast_to(np.asarray(heights, np.int64), count)
    widths = np.broadcast_to(np.asarray(widths, np.int64), count)
    box_heights, box_widths = _fallback_sizes(view, heights, widths)
    low, high = math.log(view.crop_ratio[0]), math.log(view.crop_ratio[1])
    drawn = np.zeros(count, np.bool_)
    waiting = np.arange(count)
    for attempt in range(_CROP_TRIES):
        draws = stream.rows(waiting).uniform(_DRAW_CROP + 2 * attempt, 2)
        area = heights[waiting] * widths[waiting] * _between(draws[:, 0], *view.crop_area)
        ratio = np.exp(_between(draws[:, 1], low, high))
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
    random = np.floor(stream.uniform(_DRAW_POSITION, 2) * (free + 1)).astype(np.int64)
    corners = np.where(drawn[:, None], random, free // 2)
    return np.concatenate([corners, np.stack([box_heights, box_widths], axis=1)], axis=1)


def flips(view: View, stream: Stream) -> Flags:
    """Which images are mirrored left to right, (B,)."""
    return stream.uniform(_DRAW_FLIP, 1)[:, 0] < view.flip_probability


def _fallback_sizes(view: View, heights: Ints, widths: Ints) -> tuple[Ints, Ints]:
    """Height and width of the largest box of each image whose ratio is admissible."""
    smallest, largest = view.crop_ratio
    ratio = widths / heights
    box_heights = np.where(ratio < smallest, np.rint(widths / smallest).astype(np.int64), heights)
    box_widths = np.where(ratio > largest, np.rint(heights * largest).astype(np.int64), widths)
    return box_heights, box_widths


def _between(uniform: Floats, low: float, high: float) -> Floats:
    return low + (high - low) * uniform


def _resample(pixels: Tensor, boxes: Ints, flipped: Flags, size: int) -> Tensor:
    """Resize the box of each image to (size, size), mirrored where asked: (B, H, 3, W) to (B, size, 3, size)."""
    count, height, channels, width = pixels.shape
    numbers = np.concatenate([boxes, flipped[:, None]], axis=1).astype(np.float32)
    top, left, box_height, box_width, mirror = _on_device(numbers, pixels).unbind(1)
    rows = _resize_matrices(top, box_height, torch.zeros_like(mirror), height, size)
    columns = _resize_matrices(left, box_width, mirror, width, size)
    tall = torch.bmm(rows, pixels.view(count, height, channels * width))
    wide = torch.bmm(tall.view(count, size * channels, width), columns.transpose(1, 2))
    return wide.view(count, size, channels, size)


def _resize_matrices(start: Tensor, length: Tensor, mirror: Tensor, old_size: int, new_size: int) -> Tensor:
    """Antialiased linear interpolation along one axis, as PIL does it: (B, new_size, old_size), rows sum to 1.

    The triangle filter is widened by the factor of reduction, centred on the new pixel, cut off at the edges of the box
    and normalised. Mirroring costs nothing here: it counts the new pixels from the other end.
    """
    start, length, mirror = start[:, None, None], length[:, None, None], mirror[:, None, None]
    scale = length / new_size
    old = torch.arange(old_size, device=start.device, dtype=torch.float32) + 0.5  # centres of pixels
    new = torch.arange(new_size, device=start.device, dtype=torch.float32)[:, None] + 0.5
    new = new + mirror * (new_size - 2 * new)  # (B, new, 1)
    reach = scale.clamp(min=1.0)
    weights = (old / reach - (start + new * scale) / reach).abs_().neg_().add_(1.0).clamp_(min=0.0)
    weights.mul_(((old > start) & (old < start + length)).float())
    return weights.div_(weights.sum(dim=2, keepdim=True))


# --- colour ----------------------------------------------------------------------------------------------------------


def _coloured(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    """Everything between the crop and the normalisation. Changes ``pixels`` (B, H, 3, W) in place where it can."""
    if view.jitter_probability > 0:
        pixels = _jittered(pixels, view, stream)
    if view.grayscale_probability > 0:
        pixels = _on_rows(pixels, _chosen(stream, _DRAW_GRAYSCALE, view.grayscale_probability), _grayscale)
    if view.blur_probability > 0:
        rows = _chosen(stream, _DRAW_BLUR, view.blur_probability)
        sigma = _between(stream.rows(rows).uniform(_DRAW_SIGMA, 1)[:, 0], *view.blur_sigma)
        radius = math.ceil(3 * view.blur_sigma[1])
        pixels = _on_rows(pixels, rows, lambda part: _blur(part, sigma, radius))
    if view.solarize_probability > 0:
        rows = _chosen(stream, _DRAW_SOLARIZE, view.solarize_probability)
        pixels = _on_rows(pixels, rows, lambda part: torch.where(part >= view.solarize_threshold, 1 - part, part))
    return pixels


def _chosen(stream: Stream, draw: int, probability: float) -> Ints:
    """Positions in the batch of the images that an operation is applied to."""
    return np.flatnonzero(stream.uniform(draw, 1)[:, 0] < probability)


def _on_rows(pixels: Tensor, rows: Ints, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an operation to some images of a batch, in place."""
    if len(rows) == len(pixels):
        return operation(pixels)
    if len(rows):
        where = _on_device(rows, pixels)
        pixels[where] = operation(pixels.index_select(0, where))
    return pixels


def _jittered(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    """Colour jitter: brightness, contrast, saturation and hue of each image, in an order of its own."""
    rows = _chosen(stream, _DRAW_JITTER, view.jitter_probability)
    if not len(rows):
        return pixels
    stream = stream.rows(rows)
    order = np.argsort(stream.uniform(_DRAW_ORDER, 4), axis=1, kind="stable")  # (b, 4): operation at each place
    factors = _jitter_factors(view.jitter, stream.uniform(_DRAW_FACTORS, 4))
    steps = [
        _JitterStep(operation, rows[members], factors[members, operation])
        for place in range(4)
        for operation in range(4)
        if view.jitter[operation] > 0 and len(members := np.flatnonzero(order[:, place] == operation))
    ]
    # One transfer each for all steps: many small ones would cost more than the arithmetic.
    if not steps:
        return pixels
    ends = list(accumulate(len(step.rows) for step in steps))
    all_rows = _on_device(np.concatenate([step.rows for step in steps]), pixels)
    all_factors = _on_device(np.concatenate([step.factors for step in steps]).astype(np.float32), pixels)
    for step, start, end in zip(steps, [0, *ends], ends, strict=False):
        where, factor = all_rows[start:end], all_factors[start:end, None, None, None]
        pixels[where] = _JITTER[step.operation](pixels.index_select(0, where), factor)
    return pixels


@dataclass(frozen=True)
class _JitterStep:
    """One operation on the images that have it at the same place of their order."""

    operation: int
    rows: Ints
    factors: Floats


def _jitter_factors(jitter: tuple[float, float, float, float], uniform: Floats) -> Floats:
    """Factors from [max(0, 1 - a), 1 + a] for the first three operations, turns from [-a, a] for hue; (b, 4)."""
    lows = np.array([max(0.0, 1 - amount) for amount in jitter[:3]] + [-jitter[3]])
    highs = np.array([1 + amount for amount in jitter[:3]] + [jitter[3]])
    return np.asarray(lows + (highs - lows) * uniform)


def _luma(pixels: Tensor) -> Tensor:
    """(B, H, 3, W) to (B, H, 1, W)."""
    red, green, blue = pixels.chunk(3, dim=2)
    return torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _grayscale(pixels: Tensor) -> Tensor:
    return pixels.copy_(_luma(pixels))


def _brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    return pixels.mul_(factor).clamp_(0, 1)


def _contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the image's mean luma."""
    red, green, blue = pixels.mean(dim=(1, 3), keepdim=True).chunk(3, dim=2)
    mean = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return pixels.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, each pixel's luma."""
    gray = _luma(pixels).mul_(1 - factor)
    return pixels.mul_(factor).add_(gray).clamp_(0, 1)


def _hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue in the HSV hexcone, keeping value and saturation.

    With the hue h in sixths of a turn, value V and chroma C, each channel of the result is
    V - C * clamp(2 - |k - 2|, 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = pixels.unbind(dim=2)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    # A gray pixel has no hue; the smallest positive divisor gives it 0 / tiny = 0.
    hue = difference.div_(chroma.clamp(min=1e-12))
    hue.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).add_(turns[:, 0] * 6)
    result = torch.empty_like(pixels)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        angle = hue + offset
        angle.sub_(torch.floor(angle / 6), alpha=6)
        share = angle.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(value, chroma, share, value=-1, out=result[:, :, channel])
    return result


_JITTER: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)


def _blur(pixels: Tensor, sigma: Floats, radius: int) -> Tensor:
    """Gaussian blur with a standard deviation for each image; edges are reflected."""
    count, height, channels, width = pixels.shape
    offsets = np.arange(-radius, radius + 1)
    kernels = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernels /= kernels.sum(axis=1, keepdims=True)
    weights = _on_device(kernels.astype(np.float32), pixels)
    rows = torch.mm(weights, _reflections(height, radius, pixels.device)).view(count, height, height)
    columns = rows
    if width != height:
        columns = torch.mm(weights, _reflections(width, radius, pixels.device)).view(count, width, width)
    tall = torch.bmm(rows, pixels.reshape(count, height, channels * width))
    wide = torch.bmm(tall.view(count, height * channels, width), columns.transpose(1, 2))
    return wide.view(count, height, channels, width)


@lru_cache(maxsize=8)
def _reflections(length: int, radius: int, device: torch.device) -> Tensor:
    """Which old pixel each tap of a kernel meets at each new one: (2 * radius + 1, length * length), zeros and ones."""
    period = max(1, 2 * (length - 1))
    table = np.zeros((2 * radius + 1, length, length), np.float32)
    for tap, offset in enumerate(range(-radius, radius + 1)):
        position = (np.arange(length) + offset) % period
        table[tap, np.arange(length), np.minimum(position, period - position) if length > 1 else 0] = 1
    return torch.from_numpy(table.reshape(2 * radius + 1, -1)).to(device)


# --- layout ----------------------------------------------------------------------------------------------------------


def _rows_first(images: Tensor) -> Tensor:
    """(B, 3, H, W), uint8 or float, to a new (B, H, 3, W), float32 in [0, 1]."""
    pixels = torch.empty(
        (images.shape[0], images.shape[2], images.shape[1], images.shape[3]), dtype=torch.float32, device=images.device
    )
    pixels.copy_(images.permute(0, 2, 1, 3))
    return pixels if images.is_floating_point() else pixels.div_(255)


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, H, 3, W) to a new contiguous (B, 3, H, W), zero mean and unit deviation over the data set."""
    count, height, channels, width = pixels.shape
    centre, spread = _statistics(tuple(mean), tuple(std), pixels.device)
    result = torch.empty((count, channels, height, width), device=pixels.device)
    torch.sub(pixels.permute(0, 2, 1, 3), centre, out=result)
    return result.div_(spread)


@lru_cache(maxsize=8)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, device=device).view(-1, 1, 1), torch.tensor(std, device=device).view(-1, 1, 1)


def _on_device(values: npt.NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, non_blocking=True)
