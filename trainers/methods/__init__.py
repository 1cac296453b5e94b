"""The methods, each imported when it is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from trainers.config import RunConfig
from trainers.distributed import local_batch_size
from trainers.methods.base import Method
from trainers.rng import derive


def build_method(config: RunConfig, num_classes: int) -> Method:
    """The method of a run with its networks, on the CPU and in training mode.

    Initial weights and queues are functions of ``config`` alone (its seed among them): the same on every rank, whatever
    random numbers were drawn before. The process group, if there is to be one, must have been started.

    Args:
        num_classes: classes of the training images, for methods that use their labels.

    Raises:
        ValueError: the global batch cannot be divided among the processes as the method needs it.
    """
    local_batch_size(config.train.batch_size, config.train.accumulation)
    module, _, name = config.method.implementation.partition(":")
    cls: Callable[[RunConfig, int], Method] = getattr(importlib.import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, "weights"))
        return cls(config, num_classes)
