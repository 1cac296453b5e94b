"""MoCo v3: each view's prediction must find the other view's key among the keys of the batch; there is no queue.

Chen et al., "An Empirical Study of Training Self-Supervised Vision Transformers" (arXiv 2104.02057, algorithm 1).

Authors' code: https://github.com/facebookresearch/moco-v3/blob/c349e6e/moco/builder.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.heads import Encoder, mlp
from trainers.losses import contrast_layers
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher


class MoCoV3(StudentTeacher):
    """MoCo v3. The predictor belongs to the student alone; a last norm has neither scale nor offset."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        method = config.method
        assert isinstance(method, options.MoCoV3)
        backbone = build_backbone(config.backbone, config.data.side, SyncBatchNorm)
        hidden, dim = [method.hidden_dim] * (method.projector_layers - 1), method.projection_dim
        super().__init__(
            Encoder(backbone, _head([backbone.dim, *hidden, dim], last_norm=True)),
            seed=config.seed,
            momentum=method.momentum,
            momentum_end=method.momentum_end,
            teacher_update=method.teacher_update,
        )
        self.predictor = _head([dim, method.predictor_hidden_dim, dim], last_norm=method.predictor_last_norm)
        self.temperature = method.temperature

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over both directions of 2 T times the cross-entropy of picking the own key from the global batch's.

        Logs ``accuracy``: the share of predictions to which the own key is the most similar one.
        """
        predictions = [self.predictor(self.student(images)) for images in batch.views]
        self.before_keys(progress)
        keys = [self.embed_keys(images, progress) for images in batch.views]
        results = [
            contrast_layers(prediction[None], key, self.temperature)
            for prediction, key in zip(predictions, reversed(keys), strict=True)
        ]
        losses, accuracies = zip(*results, strict=True)
        return torch.cat(losses).sum(), {"accuracy": torch.stack(accuracies).mean()}


def _head(widths: list[int], *, last_norm: bool) -> torch.nn.Sequential:
    norm = SyncBatchNorm(widths[-1], affine=False) if last_norm else None
    return mlp(widths, SyncBatchNorm, hidden_bias=False, last_bias=False, last_norm=norm)
