"""How losses compare embeddings: as unit vectors, in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """(..., D) of any dtype -> (..., D) in at least float32, every vector of length 1."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def full_precision(x: Tensor) -> torch.autocast:
    """A context for similarities on ``x``'s device: float32 even where the networks run under autocast.

    A similarity is divided by a temperature as small as 0.01, and bfloat16 has three digits: none would be left.
    """
    return torch.autocast(x.device.type, enabled=False)
