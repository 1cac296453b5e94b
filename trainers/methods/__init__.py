"""Name -> class table of the methods; each is imported when it is built."""

from __future__ import annotations

import importlib

import torch

from trainers import config as options
from trainers.methods.base import Method
from trainers.rng import derive

_CLASSES = {
    "moco_v2": ("trainers.methods.moco", "MoCoV2"),
    "isd": ("trainers.methods.isd", "ISD"),
    "sdssl": ("trainers.methods.sdssl", "SDSSL"),
}


def build_method(config: options.RunConfig) -> Method:
    """The method of a run with its networks, on the CPU and in training mode.

    Initial weights and queues are functions of ``config`` alone (its seed among them): the same on every rank, whatever
    random numbers were drawn before. The process group, if there is to be one, must have been started.

    Raises:
        ValueError: the global batch cannot be divided among the processes as the method needs it.
    """
    module, name = _CLASSES[config.method.name]
    cls: type[Method] = getattr(importlib.import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, "weights"))
        return cls(config)
