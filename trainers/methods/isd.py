"""ISD: the student sees the stored images at the same distances as the teacher does.

Tejankar et al., "ISD: Self-Supervised Learning by Iterative Similarity Distillation" (arXiv 2012.09259, ICCV 2021).

Authors' code, two published forms (``docs/methods.md`` compares them):
https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd.py (one temperature, no projector) and
https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd_plus.py (two temperatures, projector, weak teacher view).
"""

from __future__ import annotations

from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import norm_over
from trainers.distributed import local_batch_size, local_share
from trainers.heads import Encoder, mlp
from trainers.key_queue import KeyQueue
from trainers.losses import similarity_divergence
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher
from trainers.similarity import unit_rows


class ISD(StudentTeacher):
    """Iterative similarity distillation, in either published form. The predictor belongs to the student alone."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        method = config.method
        assert isinstance(method, options.ISD)
        norm = norm_over(method.bn_group_size, local_batch_size(config.train.batch_size, config.train.accumulation))
        backbone = build_backbone(config.backbone, config.data.side, norm)
        width = backbone.dim
        if method.projector:
            dim = width // 4
            projector: nn.Module = mlp([width, 2 * width, dim], norm)
            predictor = mlp([dim, 2 * width, dim], norm)
        else:
            dim = width
            projector = nn.Identity()
            predictor = mlp([dim, dim, dim], norm, hidden_bias=False)
        super().__init__(
            Encoder(backbone, projector),
            seed=config.seed,
            momentum=method.momentum,
            momentum_end=method.momentum_end,
            shuffle_keys=method.shuffle_keys,
        )
        self.predictor = predictor
        self.queue = KeyQueue(dim, method.queue_size, method.queue_init)
        self.teacher_temperature = method.teacher_temperature
        self.student_temperature = method.student_temperature

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the student's similarities (first view) from the teacher's (second view), in nats.

        Logs ``kl``, which is the loss, and ``target_entropy``, the entropy of the teacher's similarities. The loss is
        their cross-entropy minus that entropy, which moves during training: neither curve can be read alone.
        """
        first, second = batch.views
        query = unit_rows(self.predictor(self.student(first)))
        self.before_keys(progress)
        keys = self.embed_keys(second, progress)
        loss, entropy = similarity_divergence(
            query,
            local_share(keys),
            self.queue.rows,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        self.queue.stage(keys)
        return loss, {"kl": loss.detach(), "target_entropy": entropy}

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.queue.enqueue_staged()
