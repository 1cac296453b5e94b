"""A random encoder: what the architecture is worth by itself, the lower row of the papers' tables."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.methods.base import Method, Progress


class Random(Method):
    """A backbone with its initial weights and, in its norms, the statistics 0 and 1."""

    is_trained: ClassVar[bool] = False

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        super().__init__()
        self.student = build_backbone(config.backbone, config.data.side, SyncBatchNorm)

    def encoders(self) -> dict[str, nn.Module]:
        return {"student": self.student}

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        raise TypeError("a random encoder has no loss; its runs have no steps")
