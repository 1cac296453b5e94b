"""Colours, blur and solarization of crops, each operation as torchvision computes it on float tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from trainers.augment import draws
from trainers.augment.draws import Floats, Ints, between
from trainers.augment.layout import on_device
from trainers.config.views import View
from trainers.rng import Stream

#: ITU-R 601 luma, as torchvision rounds it.
_LUMA = (0.2989, 0.587, 0.114)


def coloured(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    """Everything between the crop and the normalisation. Changes ``pixels`` (B, H, 3, W) in place where it can."""
    operations = [_jittered, _grayed] if not view.grayscale_first else [_grayed, _jittered]
    for operation in (*operations, _blurred, _solarized):
        pixels = operation(pixels, view, stream)
    return pixels


def _grayed(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    return _on_rows(pixels, _chosen(stream, draws.GRAYSCALE, view.grayscale_probability), _grayscale)


def _blurred(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    rows = _chosen(stream, draws.BLUR, view.blur_probability)
    sigma = between(stream.rows(rows).uniform(draws.SIGMA, 1)[:, 0], *view.blur_sigma)
    radius = _blur_radius(view, side=pixels.shape[1])
    return _on_rows(pixels, rows, lambda part: _blur(part, sigma, radius))


def _blur_radius(view: View, side: int) -> int:
    """Pixels on each side of the centre of the blur's kernel."""
    if view.blur_reach == "tenth":
        return max(1, side // 10 // 2)
    return math.ceil(3 * view.blur_sigma[1])


def _solarized(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    rows = _chosen(stream, draws.SOLARIZE, view.solarize_probability)
    return _on_rows(pixels, rows, lambda part: torch.where(part >= view.solarize_threshold, 1 - part, part))


def _chosen(stream: Stream, draw: int, probability: float) -> Ints:
    """Positions in the batch of the images that an operation is applied to."""
    return np.flatnonzero(draws.happens(stream, draw, probability))


def _on_rows(pixels: Tensor, rows: Ints, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an operation to some images of a batch, in place."""
    if len(rows) == len(pixels):
        return operation(pixels)
    if len(rows):
        where = on_device(rows, pixels)
        pixels[where] = operation(pixels.index_select(0, where))
    return pixels


def _jittered(pixels: Tensor, view: View, stream: Stream) -> Tensor:
    """Colour jitter: brightness, contrast, saturation and hue of each image, each in its order."""
    rows = _chosen(stream, draws.JITTER, view.jitter_probability)
    if not len(rows):
        return pixels
    stream = stream.rows(rows)
    # (b, 4): which operation has which place in the order of each image
    order = np.argsort(stream.uniform(draws.ORDER, 4), axis=1, kind="stable")
    factors = _jitter_factors(view.jitter, stream.uniform(draws.FACTORS, 4))
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
    all_rows = on_device(np.concatenate([step.rows for step in steps]), pixels)
    all_factors = on_device(np.concatenate([step.factors for step in steps]).astype(np.float32), pixels)
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
    weights = on_device(kernels.astype(np.float32), pixels)
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
