"""BYOL in one direction, with small batches and batch-norm groups as ISD has them: the baseline of ISD's paper.

Tejankar et al., "ISD: Self-Supervised Learning by Iterative Similarity Distillation" (arXiv 2012.09259, ICCV 2021).

Authors' code: https://github.com/UMBCvision/ISD/blob/4bdd603/train_byol.py
"""

from __future__ import annotations

from torch import Tensor

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import norm_over
from trainers.distributed import local_batch_size, local_share
from trainers.heads import Encoder, mlp
from trainers.losses import regression
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher


class BYOLAsym(StudentTeacher):
    """BYOL with the projector and predictor of ISD's second form, and no queue."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        method = config.method
        assert isinstance(method, options.BYOLAsym)
        norm = norm_over(method.bn_group_size, local_batch_size(config.train.batch_size, config.train.accumulation))
        backbone = build_backbone(config.backbone, config.data.side, norm)
        width, dim = backbone.dim, backbone.dim // 4
        super().__init__(
            Encoder(backbone, mlp([width, 2 * width, dim], norm)),
            seed=config.seed,
            momentum=method.momentum,
            momentum_end=method.momentum_end,
            shuffle_keys=method.shuffle_keys,
        )
        self.predictor = mlp([dim, 2 * width, dim], norm)

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """2 - 2 cos of the prediction (first view) and the teacher's embedding (second view); logs nothing else."""
        first, second = batch.views
        prediction = self.predictor(self.student(first))
        self.before_keys(progress)
        target = local_share(self.embed_keys(second, progress))
        return regression(prediction[None], target).squeeze(0), {}
