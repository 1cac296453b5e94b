"""SDSSL on MoCo v3: every block of a vision transformer learns from the last block's target of the other view.

Jang et al., "Self-Distilled Self-Supervised Representation Learning" (arXiv 2111.12958, WACV 2023), and, for the base,
Chen et al., "An Empirical Study of Training Self-Supervised Vision Transformers" (arXiv 2104.02057, algorithm 1).

Authors' code: https://github.com/hagiss/SDSSL/blob/bbd34fa/pl_train_moco.py. We follow this release where it differs
from its own earlier revisions (``docs/methods.md``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import VisionTransformer, build_backbone
from trainers.batch import Batch
from trainers.distributed import gather_interleaved, local_batch_size
from trainers.heads import StackedMLP
from trainers.losses import contrast_layers
from trainers.methods.base import Method, Progress
from trainers.momentum import make_teacher, update_teacher
from trainers.schedule import cosine_momentum, cosine_ramp
from trainers.similarity import unit_rows


class SDSSL(Method):
    """Self-distillation across the blocks of a ViT, with MoCo v3's loss, heads and momentum teacher.

    Block 1 to the last have a projector and a predictor each in the student; the teacher has the last projector alone.

    NOTE: the projectors of the blocks are independent networks; as those before the last have equal shapes, and so have
    all predictors, each kind is computed as one stack. This changes speed only.
    """

    def __init__(self, config: options.RunConfig, num_classes: int) -> None:  # noqa: ARG002 (no labels)
        super().__init__()
        method = config.method
        assert isinstance(method, options.SDSSL)
        local_batch_size(config.train.batch_size)
        backbone = build_backbone(config.backbone, config.data.side)
        assert isinstance(backbone, VisionTransformer) and backbone.depth > 1, "RunConfig refuses these"
        depth, dim, out = backbone.depth, backbone.dim, method.projection_dim
        hidden, intermediate = method.hidden_dim, method.intermediate_hidden_dim
        self.backbone = backbone
        self.intermediate_projectors = StackedMLP(depth - 1, [dim, intermediate, intermediate, out])
        self.projector = StackedMLP(1, [dim, hidden, hidden, out])
        self.predictors = StackedMLP(depth, [out, method.predictor_hidden_dim, out])
        self.teacher_backbone = make_teacher(backbone)
        self.teacher_projector = make_teacher(self.projector)
        self.temperature = method.temperature
        self.momentum = method.momentum
        self.ratio = method.ratio

    def encoders(self) -> dict[str, nn.Module]:
        """The teacher's backbone, which the paper evaluates, and the student's."""
        return {"teacher": self.teacher_backbone, "student": self.backbone}

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """L_out + ratio * L_mid + depth * L_det, each the sum of both directions (``docs/methods.md``, SDSSL).

        L_out compares the last block's predictions with the teacher's targets of the other view; L_mid those of the
        blocks before it (their mean); L_det those of all blocks (their mean) without a gradient beyond the predictors,
        which therefore learn at full speed whatever the ratio. The ratio grows from 0 over the whole training.

        Logs these three as ``loss_out``, ``loss_mid`` and ``loss_det``, the ``ratio``, and ``accuracy``: the share of
        images whose own target is the one most similar to the last block's prediction.
        """
        first, second = batch.views
        ratio = cosine_ramp(self.ratio, progress.fraction)
        layers = self.backbone.forward_layers(torch.cat([first, second]))  # (L, 2 * B / W, d)
        targets = self._targets(first, second)
        # All three terms weigh the same losses of the layers, and L_det differs from the others only in where gradients
        # end. So one pass through the predictors does: it has the sum of the weights, and what flows on into the
        # projectors is scaled down to the share that is not L_det's.
        encoder_weights = layers.new_full((len(layers),), ratio / (len(layers) - 1))
        encoder_weights[-1] = 1.0
        predictor_weights = encoder_weights + 1.0
        loss, per_layer, accuracy = layers.new_zeros(()), layers.new_zeros(len(layers)), layers.new_zeros(())
        for view, target in zip(layers.chunk(2, dim=1), reversed(targets), strict=True):
            projected = scale_gradient(self._project(view), (encoder_weights / predictor_weights)[:, None, None])
            losses, correct = contrast_layers(self.predictors(projected), target, self.temperature)
            loss = loss + (predictor_weights * losses).sum()
            per_layer += losses.detach()
            accuracy += correct / 2
        return loss, {
            "loss_out": per_layer[-1],
            "loss_mid": per_layer[:-1].mean(),
            "loss_det": per_layer.mean(),
            "ratio": layers.new_full((), ratio),
            "accuracy": accuracy,
        }

    def after_step(self, progress: Progress) -> None:
        """Move the teacher, after the optimizer (MoCo v3's own code does so before the keys are embedded)."""
        momentum = cosine_momentum(self.momentum, progress.fraction)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)

    def _project(self, layers: Tensor) -> Tensor:
        """(L, B / W, d) -> (L, B / W, D), each layer through its own projector."""
        return torch.cat([self.intermediate_projectors(layers[:-1]), self.projector(layers[-1:])])

    @torch.no_grad()
    def _targets(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """The teacher's embeddings of both views: (B, D) of the global batch, unit rows, the same on every rank."""
        features = self.teacher_backbone(torch.cat([first, second]))
        embedded = [unit_rows(self.teacher_projector(view[None])[0]) for view in features.chunk(2)]
        return list(gather_interleaved(torch.stack(embedded, dim=1)).unbind(1))


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor`` (which broadcasts to ``x``'s shape) on its way back."""
    return torch.lerp(x.detach(), x, factor.to(x.dtype))
