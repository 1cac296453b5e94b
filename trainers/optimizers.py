"""The optimizer of a run, and a way around torch's compiler for runs that do not compile.

The first use of any torch optimizer imports ``torch._dynamo`` (with sympy: 1.4 s, as long as importing torch itself),
only to tell the compiler to leave the optimizer alone. The optimizers built here skip it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from trainers import config as options
from trainers.lars import LARS

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


def build_optimizer(parameters: Iterable[nn.Parameter], train: options.Train) -> Optimizer:
    """The optimizer that ``train`` names, over those of ``parameters`` that require gradients.

    The learning rate starts at its peak; :func:`set_learning_rate` sets the one of each step.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = _decay_groups(trained, train)
    lr, chosen = train.peak_learning_rate, train.optimizer
    # The fused kernels update everything in one launch; the default launches several per tensor.
    if isinstance(chosen, options.SGD):
        return _without_compiler(torch.optim.SGD)(
            groups, lr=lr, momentum=chosen.momentum, nesterov=chosen.nesterov, fused=True
        )
    if isinstance(chosen, options.LARS):
        return _without_compiler(LARS)(groups, lr=lr, **chosen.model_dump(exclude={"name"}))
    return _without_compiler(torch.optim.AdamW)(groups, lr=lr, betas=(chosen.beta1, chosen.beta2), fused=True)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Use ``learning_rate`` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _decay_groups(trained: list[nn.Parameter], train: options.Train) -> list[dict[str, Any]]:
    if not train.decay_matrices_only:
        return [{"params": trained, "weight_decay": train.weight_decay}]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


#: Methods of torch's optimizers that are wrapped in a guard whose first call imports the compiler.
_GUARDED_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compiler(optimizer: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """A subclass whose methods are the functions beneath torch's compiler guards.

    Computes the same. If torch guards its methods in another way one day, the guards stay, and only start-up is slower.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in _GUARDED_METHODS}
    # The guard around step also switches gradients off, which the function beneath relies on.
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)
