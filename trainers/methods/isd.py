"""ISD: the student sees the stored images at the same distances as the teacher does.

Tejankar et al., "ISD: Self-Supervised Learning by Iterative Similarity Distillation" (arXiv 2012.09259, ICCV 2021).

Authors' code, two published forms (``docs/methods.md`` compares them):
https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd.py (one temperature, no projector) and
https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd_plus.py (two temperatures, projector, weak teacher view).
"""

from __future__ import annotations

from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import NormFactory
from trainers.batch import Batch
from trainers.distributed import local_share
from trainers.heads import Encoder
from trainers.key_queue import KeyQueue
from trainers.losses import similarity_divergence
from trainers.methods.base import Progress
from trainers.methods.momentum_queue import MomentumQueueMethod, build_grouped_backbone
from trainers.similarity import unit_rows


class ISD(MomentumQueueMethod):
    """Iterative similarity distillation, in either published form. The predictor belongs to the student alone."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:  # noqa: ARG002 (no labels)
        method = config.method
        assert isinstance(method, options.ISD)
        backbone, norm = build_grouped_backbone(config, method.bn_group_size)
        width = backbone.dim
        if method.projector:
            dim = width // 4
            projector: nn.Module = _head(width, 2 * width, dim, norm)
            predictor = _head(dim, 2 * width, dim, norm)
        else:
            dim = width
            projector = nn.Identity()
            predictor = _head(dim, dim, dim, norm, hidden_bias=False)
        super().__init__(
            Encoder(backbone, projector),
            KeyQueue(dim, method.queue_size, method.queue_init),
            momentum=method.momentum,
            seed=config.seed,
        )
        self.predictor = predictor
        self.teacher_temperature = method.teacher_temperature
        self.student_temperature = method.student_temperature

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the student's similarities (first view) from the teacher's (second view), in nats.

        Logs ``kl``, which is the loss, and ``target_entropy``, the entropy of the teacher's similarities. The loss is
        their cross-entropy minus that entropy, which moves during training: neither curve can be read alone.
        """
        first, second = batch.views
        query = unit_rows(self.predictor(self.student(first)))
        self.advance_teacher()
        keys = self.embed_keys(second, progress)
        loss, entropy = similarity_divergence(
            query,
            local_share(keys),
            self.queue.rows,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        self.remember(keys)
        return loss, {"kl": loss.detach(), "target_entropy": entropy}


def _head(width_in: int, hidden: int, width_out: int, norm: NormFactory, *, hidden_bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, hidden, bias=hidden_bias),
        norm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, width_out),
    )
