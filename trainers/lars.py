"""LARS, which torch lacks: SGD whose step of each tensor is in proportion to the tensor's norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al. 2017, arXiv 1708.03888, algorithm 1).

    For a tensor w with two or more dimensions and gradient g, decay b, momentum m and learning rate lr:

        u = g + b w,    ratio = trust_coefficient |w| / |u|  (1 where a norm is 0)
        v = m v + ratio u,    w = w - lr v

    Tensors of one dimension (biases, norms) have u = g and ratio = 1. The defaults are those of MoCo v3 and BYOL
    (https://github.com/facebookresearch/moco-v3/blob/c349e6e/moco/optimizer.py,
    https://github.com/google-deepmind/deepmind-research/blob/4822a455/byol/utils/optimizers.py).

    All tensors are updated by a few multi-tensor operations, and no value is read back to the host.

    Args:
        params: tensors, or groups of them, as torch's optimizers take them.
        lr, momentum, weight_decay, trust_coefficient: lr, m, b and the coefficient above.
        learning_rate_in_momentum: v = m v + lr ratio u and w = w - v, as SimCLR has it
            (https://github.com/google-research/simclr/blob/383d414/tf2/lars_optimizer.py): a change of the learning
            rate does not reach what is already in v.
        denominator: ``update`` divides by |u|, ``sum`` by |g| + b |w| (equation 6 of the paper).
        clip_trust_ratio: take the ratio, divided by the learning rate, to be at most this; solo-learn's clipping has 1,
            so that the rate of a tensor is the smaller one of the ratio and the learning rate. None leaves the ratio
            as it is.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        learning_rate_in_momentum: bool = False,
        denominator: Literal["update", "sum"] = "update",
        clip_trust_ratio: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "learning_rate_in_momentum": learning_rate_in_momentum,
            "denominator": denominator,
            "clip_trust_ratio": clip_trust_ratio,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in trained if parameter.dim() > 1]
            vectors = [parameter for parameter in trained if parameter.dim() <= 1]
            self._descend(matrices, _scaled_updates(matrices, group), group)
            self._descend(vectors, _gradients(vectors), group)

    def _descend(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        """Take ``updates`` into the momentum and move the parameters along it."""
        if not parameters:
            return
        velocities = [self._velocity(parameter) for parameter in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        if group["learning_rate_in_momentum"]:
            torch._foreach_add_(velocities, updates, alpha=group["lr"])
            torch._foreach_sub_(parameters, velocities)
        else:
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(parameters, velocities, alpha=-group["lr"])

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _scaled_updates(parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Gradients with decay, times the trust ratio of each tensor."""
    if not parameters:
        return []
    gradients = _gradients(parameters)
    updates = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
    norms = torch.stack(torch._foreach_norm(parameters))
    if group["denominator"] == "sum":
        denominators = torch.stack(torch._foreach_norm(gradients)) + group["weight_decay"] * norms
    else:
        denominators = torch.stack(torch._foreach_norm(updates))
    ratios = group["trust_coefficient"] * norms / denominators
    if group["clip_trust_ratio"] is not None:
        ratios = (ratios / group["lr"]).clamp(max=group["clip_trust_ratio"])
    ratios = torch.where((norms > 0) & (denominators > 0), ratios, 1.0)
    return list(torch._foreach_mul(updates, ratios.unbind()))
