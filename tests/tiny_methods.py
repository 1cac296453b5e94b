"""Every method in a size that takes a step in milliseconds, and batches to train it on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers import config as options
from trainers.batch import Batch
from trainers.methods import build_method
from trainers.methods.base import Method, Progress
from trainers.optimizers import build_optimizer

BATCH = 8
NUM_CLASSES = 4
VIT = options.ViTTiny(width=16, heads=2, depth=3)
RESNET = options.ResNet18(width=4)

_GROUPED: dict[str, Any] = {"queue_size": 16, "bn_group_size": 4}
_PROJECTOR: dict[str, Any] = {"projection_dim": 6, "hidden_dim": 10}
_HEADS: dict[str, Any] = {**_PROJECTOR, "predictor_hidden_dim": 12}

#: Each method that is trained, in each of its forms.
METHODS: dict[str, options.Method] = {
    "moco_v1": options.MoCoV1(**_GROUPED, projection_dim=8),
    "moco_v2": options.MoCoV2(**_GROUPED, projection_dim=8),
    "moco_v2_symmetric": options.MoCoV2(**_GROUPED, projection_dim=8, symmetric=True),
    "moco_v3": options.MoCoV3(**_HEADS),
    "isd": options.ISD(**_GROUPED),
    "isd_plus": options.ISD(**_GROUPED, projector=True, teacher_temperature=0.01, student_temperature=0.1),
    "simclr": options.SimCLR(projection_dim=6),
    "byol": options.BYOL(**_HEADS),
    "byol_one_way": options.BYOL(**_HEADS, symmetric=False),
    "byol_asym": options.BYOLAsym(bn_group_size=4),
    "sdssl_moco_v3": options.SDSSL(**_HEADS, intermediate_hidden_dim=8),
    "sdssl_byol": options.SDSSL(**_HEADS, intermediate_hidden_dim=8, base="byol"),
    "sdssl_simclr": options.SDSSL(**_PROJECTOR, intermediate_hidden_dim=8, base="simclr"),
    "supervised": options.Supervised(),
}


def run_config(
    method: options.Method | str, backbone: options.Backbone | None = None, *, seed: int = 0, **train: Any
) -> options.RunConfig:
    """A run of a method, or of the one with this name in :data:`METHODS`; ``train`` are options of the training."""
    method = METHODS[method] if isinstance(method, str) else method
    backbone = backbone or (VIT if isinstance(method, options.SDSSL) else RESNET)
    return options.RunConfig(
        method=method,
        backbone=backbone,
        train=options.Train(**{"batch_size": BATCH, "learning_rate": 0.05, **train}),
        seed=seed,
    )


def build(
    method: options.Method | str, backbone: options.Backbone | None = None, *, seed: int = 0, **train: Any
) -> Method:
    """The method of :func:`run_config`."""
    return build_method(run_config(method, backbone, seed=seed, **train), NUM_CLASSES)


def batch(size: int = BATCH, *, seed: int = 0, views: int = 2, dtype: torch.dtype = torch.float32) -> Batch:
    """Images of noise, 8 by 8, with views that differ a little; labels 0, 1, 2, 3, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 8, 8, generator=generator, dtype=dtype)
    noise = torch.randn(images.shape, generator=generator, dtype=dtype)
    return Batch((images, images + 0.3 * noise)[:views], torch.arange(size) % NUM_CLASSES)


def batch_for(config: options.RunConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch of as many images and views as a run trains on."""
    return batch(config.train.batch_size, seed=seed, views=len(config.method.views()), dtype=dtype)


def take_steps(method: Method, config: options.RunConfig, num_steps: int) -> list[dict[str, Tensor]]:
    """Train for a few of ten steps, from the first one on, each on a batch of its own; what each step logged."""
    optimizer = build_optimizer(method.parameters(), config.train)
    logged = []
    for step in range(num_steps):
        progress = Progress(step, 10, 5)
        optimizer.zero_grad()
        loss, logs = method(batch_for(config, seed=step), progress)
        loss.backward()
        optimizer.step()
        method.after_step(progress)
        logged.append({"loss": loss.detach(), **logs})
    return logged
