"""Pixels between the layout of images, (B, 3, H, W), and that of the operations, (B, H, 3, W)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def rows_first(images: Tensor) -> Tensor:
    """(B, 3, H, W), uint8 or float, to a new (B, H, 3, W), float32 in [0, 1]."""
    pixels = torch.empty(
        (images.shape[0], images.shape[2], images.shape[1], images.shape[3]), dtype=torch.float32, device=images.device
    )
    pixels.copy_(images.permute(0, 2, 1, 3))
    return pixels if images.is_floating_point() else pixels.div_(255)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, H, 3, W) to a new contiguous (B, 3, H, W), zero mean and unit deviation over the data set."""
    count, height, channels, width = pixels.shape
    centre, spread = _statistics(tuple(mean), tuple(std), pixels.device)
    result = torch.empty((count, channels, height, width), device=pixels.device)
    torch.sub(pixels.permute(0, 2, 1, 3), centre, out=result)
    return result.div_(spread)


@lru_cache(maxsize=8)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, device=device).view(-1, 1, 1), torch.tensor(std, device=device).view(-1, 1, 1)


def on_device(values: npt.NDArray[np.generic], like: Tensor) -> Tensor:
    """``values`` where ``like`` is."""
    return torch.from_numpy(values).to(like.device, non_blocking=True)
