"""SimCLR: each view of an image must find the other one among both views of all images of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (arXiv 2002.05709, equation 1,
algorithm 1), and, for the projector of three layers, "Big Self-Supervised Models are Strong Semi-Supervised Learners"
(arXiv 2006.10029).

Authors' code: https://github.com/google-research/simclr/blob/383d414/tf2/objective.py and ``model.py``
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import build_backbone
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.distributed import gather_with_gradient
from trainers.heads import Encoder, mlp
from trainers.losses import nt_xent
from trainers.methods.base import Method, Progress
from trainers.similarity import unit_rows


class SimCLR(Method):
    """SimCLR. Both views go through the network as one batch of 2 B, which is what batch statistics are taken over."""

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:
        super().__init__()
        method = config.method
        assert isinstance(method, options.SimCLR)
        backbone = build_backbone(config.backbone, config.data.side, SyncBatchNorm)
        self.student = Encoder(backbone, _projector(method, backbone.dim))
        self.temperature = method.temperature
        self.gather_gradient = method.gather_gradient
        self.directions = method.directions

    def encoders(self) -> dict[str, nn.Module]:
        return {"student": self.student.backbone}

    def embedders(self) -> dict[str, nn.Module]:
        return {"student": self.student}

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent of both views, added or averaged.

        Logs ``accuracy``: the share of views to which the other view of the image is the most similar.
        """
        embedded = unit_rows(self.student(torch.cat(batch.views)))
        rows = torch.stack(embedded.chunk(2), dim=1)  # (B / W, 2, D)
        losses, accuracy = nt_xent(rows[None], gather_with_gradient(rows, self.gather_gradient), self.temperature)
        mean = losses.squeeze(0)
        return 2 * mean if self.directions == "sum" else mean, {"accuracy": accuracy}


def _projector(method: options.SimCLR, width: int) -> nn.Sequential:
    """The authors' head: a linear layer has a bias where no norm follows, the last one never."""
    last_norm = None
    if method.last_norm:
        last_norm = SyncBatchNorm(method.projection_dim)
        last_norm.bias.requires_grad_(False)  # a scale and no offset: it stays 0
    return mlp(
        [width, *[method.hidden_dim or width] * (method.projector_layers - 1), method.projection_dim],
        SyncBatchNorm if method.hidden_norm else None,
        hidden_bias=not method.hidden_norm,
        last_bias=False,
        last_norm=last_norm,
    )
