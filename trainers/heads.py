"""Projectors and predictors: from a representation to the space of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.backbones import Backbone, NormFactory
from trainers.batch_norm import SyncBatchNorm


class Encoder(nn.Module):
    """A backbone followed by a projector.

    Args:
        backbone: (B, 3, H, W) -> (B, d).
        projector: (B, d) -> (B, D).
    """

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), not normalised."""
        projected: Tensor = self.projector(self.backbone(images))
        return projected


def mlp(
    widths: Sequence[int],
    norm: NormFactory | None,
    *,
    hidden_bias: bool = True,
    last_bias: bool = True,
    last_norm: nn.Module | None = None,
) -> nn.Sequential:
    """A projector or predictor: Linear-norm-ReLU repeated, then Linear; (B, widths[0]) -> (B, widths[-1]).

    Args:
        widths: from the input's width over the hidden ones to the output's; at least two.
        norm: makes the norm of a hidden layer; None for no norm.
        hidden_bias: whether the hidden linear layers have biases.
        last_bias: whether the last linear layer has a bias.
        last_norm: applied to the output.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(fan_in, fan_out, bias=hidden_bias))
        if norm is not None:
            layers.append(norm(fan_out))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
    if last_norm is not None:
        layers.append(last_norm)
    return nn.Sequential(*layers)


class StackedMLP(nn.Module):
    """Several MoCo v3 heads of equal shape, one per layer of a network, computed together.

    Each head is Linear-BN-ReLU repeated, then Linear-BN where the last BN has neither scale nor offset; no biases
    (MoCo v3's projector and predictor for ViTs). The heads share no weights. Computing them as one batched product
    costs one kernel and one synchronisation of statistics per level instead of one per level and head.

    Args:
        num_heads: heads S.
        widths: from the input's width over the hidden ones to the output's.
        last_norm: whether there is a batch norm after the last linear layer.
    """

    def __init__(self, num_heads: int, widths: Sequence[int], *, last_norm: bool = True) -> None:
        super().__init__()
        self.linears = nn.ModuleList(_StackedLinear(num_heads, fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        norms: list[nn.Module] = [SyncBatchNorm(num_heads * width) for width in widths[1:-1]]
        norms.append(SyncBatchNorm(num_heads * widths[-1], affine=False) if last_norm else nn.Identity())
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        """(S, B, d) -> (S, B, D), not normalised: head s applied to x[s]."""
        last = len(self.linears) - 1
        for level, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            x = linear(x).transpose(0, 1)  # (B, S, width)
            x = norm(x.flatten(1)).view(x.shape)  # a channel of a head is a channel of the norm
            x = (x if level == last else F.relu(x)).transpose(0, 1)
        return x


class _StackedLinear(nn.Module):
    """S bias-free linear layers: (S, B, in) -> (S, B, out), each initialised as nn.Linear is."""

    def __init__(self, num_heads: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(num_heads, fan_in, fan_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight)
