"""Supervised training: what the labels are worth to the same network, the upper row of the papers' tables."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.methods.base import Method, Progress


class Supervised(Method):
    """A linear classifier on the backbone, trained with it."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        super().__init__()
        backbone = build_backbone(config.backbone, config.data.side, SyncBatchNorm)
        self.student = backbone
        self.classifier = nn.Linear(backbone.dim, num_classes)

    def encoders(self) -> dict[str, nn.Module]:
        return {"student": self.student}

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the labels; logs ``accuracy``, the share of training images that are classified right."""
        (images,) = batch.views
        scores = self.classifier(self.student(images))
        accuracy = (scores.argmax(1) == batch.labels).float().mean()
        return F.cross_entropy(scores, batch.labels), {"accuracy": accuracy}
