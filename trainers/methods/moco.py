"""MoCo v1 and v2: each query must tell its own key from a queue of older keys of a momentum encoder.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (arXiv 1911.05722: algorithm 1, equation
1, sections 3.2 and 3.3), and Chen et al., "Improved Baselines with Momentum Contrastive Learning" (arXiv 2003.04297).

Authors' code: https://github.com/facebookresearch/moco/blob/132aea9/moco/builder.py; the symmetric form is that of
their CIFAR-10 notebook (branch ``colab-notebook``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import norm_over
from trainers.distributed import local_batch_size, local_share
from trainers.heads import Encoder, mlp
from trainers.key_queue import KeyQueue
from trainers.losses import info_nce
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher
from trainers.similarity import unit_rows


class MoCo(StudentTeacher):
    """MoCo with batch-norm groups of a fixed size, so that the numbers do not depend on the number of processes.

    The head is a linear layer in v1, and an MLP with one hidden layer, without norms, in v2.
    """

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        method = config.method
        assert isinstance(method, (options.MoCoV1, options.MoCoV2))
        norm = norm_over(method.bn_group_size, local_batch_size(config.train.batch_size, config.train.accumulation))
        backbone = build_backbone(config.backbone, config.data.side, norm)
        hidden = [method.hidden_dim or backbone.dim] if isinstance(method, options.MoCoV2) else []
        super().__init__(
            Encoder(backbone, mlp([backbone.dim, *hidden, method.projection_dim], None)),
            seed=config.seed,
            momentum=method.momentum,
            momentum_end=method.momentum_end,
            shuffle_keys=method.shuffle_keys,
        )
        self.queue = KeyQueue(method.projection_dim, method.queue_size)
        self.temperature = method.temperature
        self.symmetric = method.symmetric

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of the first view's queries and the second view's keys; symmetric: plus that of the views exchanged.

        The symmetric loss is the sum of both directions, and both views' keys enter the queue, first those of the first
        view. Logs ``accuracy``: the share of queries whose own key is the most similar one.
        """
        first, second = batch.views
        pairs = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        queries = [self.student(images) for images, _ in pairs]
        self.before_keys(progress)
        keys = [self.embed_keys(images, progress, view) for view, (_, images) in enumerate(pairs)]
        results = [self._contrast(q, k) for q, k in zip(queries, keys, strict=True)]
        self.queue.stage(*reversed(keys))
        losses, accuracies = zip(*results, strict=True)
        return torch.stack(losses).sum(), {"accuracy": torch.stack(accuracies).mean()}

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.queue.enqueue_staged()

    def _contrast(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return info_nce(unit_rows(query), local_share(keys), self.queue.rows, self.temperature)
