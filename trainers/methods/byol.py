"""BYOL: the student predicts the teacher's embedding of the other view; nothing is contrasted.

Grill et al., "Bootstrap Your Own Latent" (arXiv 2006.07733, equation 2, algorithm 1).

Authors' code: https://github.com/google-deepmind/deepmind-research/blob/4822a455/byol/byol_experiment.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.distributed import local_share
from trainers.heads import Encoder, mlp
from trainers.losses import regression
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher


class BYOL(StudentTeacher):
    """BYOL, in both directions or in one. The predictor belongs to the student alone."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        method = config.method
        assert isinstance(method, options.BYOL)
        student = _encoder(config, method)
        predictor = _head(method.projection_dim, method.predictor_hidden_dim, method.projection_dim)
        super().__init__(
            student,
            _encoder(config, method) if method.teacher_init == "independent" else None,
            seed=config.seed,
            momentum=method.momentum,
            momentum_end=method.momentum_end,
            teacher_update=method.teacher_update,
        )
        self.predictor = predictor
        self.symmetric = method.symmetric

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """2 - 2 cos of one view's prediction and the other's target; symmetric: plus that of the views exchanged.

        Logs nothing more.
        """
        first, second = batch.views
        pairs = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        predictions = [self.predictor(self.student(images)) for images, _ in pairs]
        self.before_keys(progress)
        targets = [local_share(self.embed_keys(images, progress)) for _, images in pairs]
        losses = [regression(p[None], target) for p, target in zip(predictions, targets, strict=True)]
        return torch.cat(losses).sum(), {}


def _encoder(config: options.RunConfig, method: options.BYOL) -> Encoder:
    backbone = build_backbone(config.backbone, config.data.side, SyncBatchNorm)
    return Encoder(backbone, _head(backbone.dim, method.hidden_dim, method.projection_dim))


def _head(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return mlp([width_in, hidden, width_out], SyncBatchNorm, last_bias=False)
