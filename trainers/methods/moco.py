"""MoCo v2: each query must tell its own key from a queue of older keys of a momentum encoder.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (arXiv 1911.05722: algorithm 1, equation
1, sections 3.2 and 3.3), and Chen et al., "Improved Baselines with Momentum Contrastive Learning" (arXiv 2003.04297).

Authors' code: https://github.com/facebookresearch/moco/blob/132aea9/moco/builder.py; the symmetric form is that of
their CIFAR-10 notebook (branch ``colab-notebook``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers import config as options
from trainers.batch import Batch
from trainers.distributed import local_share
from trainers.heads import Encoder
from trainers.key_queue import KeyQueue
from trainers.losses import info_nce
from trainers.methods.base import Progress
from trainers.methods.momentum_queue import MomentumQueueMethod, build_grouped_backbone
from trainers.similarity import unit_rows


class MoCo(MomentumQueueMethod):
    """MoCo v2 with batch-norm groups of a fixed size, so that the numbers do not depend on the number of processes."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:  # noqa: ARG002 (no labels)
        method = config.method
        assert isinstance(method, (options.MoCoV1, options.MoCoV2))
        backbone, _ = build_grouped_backbone(config, method.bn_group_size)
        projector = nn.Sequential(
            nn.Linear(backbone.dim, backbone.dim), nn.ReLU(inplace=True), nn.Linear(backbone.dim, method.projection_dim)
        )
        super().__init__(
            Encoder(backbone, projector),
            KeyQueue(method.projection_dim, method.queue_size),
            momentum=method.momentum,
            seed=config.seed,
        )
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
        self.advance_teacher()
        keys = [self.embed_keys(images, progress, view) for view, (_, images) in enumerate(pairs)]
        results = [self._contrast(q, k) for q, k in zip(queries, keys, strict=True)]
        self.remember(*reversed(keys))
        losses, accuracies = zip(*results, strict=True)
        return torch.stack(losses).sum(), {"accuracy": torch.stack(accuracies).mean()}

    def _contrast(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return info_nce(unit_rows(query), local_share(keys), self.queue.rows, self.temperature)
