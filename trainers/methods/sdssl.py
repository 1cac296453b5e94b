"""SDSSL: every block of a vision transformer learns from the last block's target of the other view.

Jang et al., "Self-Distilled Self-Supervised Representation Learning" (arXiv 2111.12958, WACV 2023), on MoCo v3 (arXiv
2104.02057), BYOL (arXiv 2006.07733) and SimCLR (arXiv 2002.05709).

Authors' code: https://github.com/hagiss/SDSSL/tree/bbd34fa, ``pl_train_moco.py``, ``pl_train_byol.py`` and
``pl_train_simclr.py``. We follow this release where it differs from its own earlier revisions, and have those as
options (``docs/methods.md``).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import VisionTransformer, build_backbone
from trainers.batch import Batch
from trainers.distributed import gather_interleaved, gather_with_gradient, local_share
from trainers.heads import StackedMLP
from trainers.losses import contrast_layers, nt_xent, regression
from trainers.methods.base import Method, Progress
from trainers.momentum import make_teacher, update_teacher
from trainers.schedule import cosine_momentum, cosine_ramp
from trainers.similarity import unit_rows


def build_sdssl(config: options.RunConfig, num_classes: int) -> SDSSL:  # noqa: ARG001 (no labels)
    """SDSSL on the base that ``config.method`` names."""
    method = config.method
    assert isinstance(method, options.SDSSL)
    bases: dict[str, type[SDSSL]] = {"moco_v3": SDMoCoV3, "byol": SDBYOL, "simclr": SDSimCLR}
    return bases[method.base](config, method)


class SDSSL(Method):
    """What the three bases share: a ViT with a projector for every block, and the weight of the blocks before the last.

    NOTE: the projectors of the blocks are independent networks; as those before the last have equal shapes, and so have
    all predictors, each kind is computed as one stack. This changes speed only.
    """

    def __init__(self, config: options.RunConfig, method: options.SDSSL) -> None:
        super().__init__()
        backbone = build_backbone(config.backbone, config.data.side)
        assert isinstance(backbone, VisionTransformer) and backbone.depth > 1, "RunConfig refuses these"
        dim, hidden, intermediate = backbone.dim, method.hidden_dim, method.intermediate_hidden_dim
        self.backbone = backbone
        self.intermediate_projectors = StackedMLP(
            backbone.depth - 1,
            [dim, intermediate, intermediate, method.projection_dim],
            last_norm=method.last_norm != "none",
        )
        self.projector = StackedMLP(
            1, [dim, hidden, hidden, method.projection_dim], last_norm=method.last_norm == "all"
        )
        self.ratio = method.ratio

    def project(self, layers: Tensor) -> Tensor:
        """(L, N, d) -> (L, N, D), each layer through its own projector; batch statistics over the N of all ranks."""
        return torch.cat([self.intermediate_projectors(layers[:-1]), self.projector(layers[-1:])])


# --- a teacher, and a predictor for every block ----------------------------------------------------------------------


class SDSSLWithTeacher(SDSSL):
    """SDSSL whose blocks predict the targets of a momentum teacher, which has the last block's projector alone."""

    def __init__(self, config: options.RunConfig, method: options.SDSSL) -> None:
        super().__init__(config, method)
        self.predictors = StackedMLP(
            self.backbone.depth,
            [method.projection_dim, method.predictor_hidden_dim, method.projection_dim],
            last_norm=method.last_norm == "all",
        )
        self.teacher_backbone = make_teacher(self.backbone)
        self.teacher_projector = make_teacher(self.projector)
        self.predictor_weight = method.predictor_weight
        self.momentum = method.momentum
        self.momentum_end = method.momentum_end
        self.teacher_update = method.teacher_update

    def encoders(self) -> dict[str, nn.Module]:
        """The teacher's backbone, which the paper evaluates, and the student's."""
        return {"teacher": self.teacher_backbone, "student": self.backbone}

    def embedders(self) -> dict[str, nn.Module]:
        return {
            "teacher": _Embedder(self.teacher_backbone, self.teacher_projector),
            "student": _Embedder(self.backbone, self.projector),
        }

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """L_out + ratio * L_mid + predictor_weight * depth * L_det, each the sum of both directions.

        L_out compares the last block's predictions with the teacher's targets of the other view; L_mid those of the
        blocks before it (their mean); L_det those of all blocks (their mean) without a gradient beyond the predictors,
        which therefore learn at full speed whatever the ratio. The ratio grows from 0 over the whole training.

        Logs these three as ``loss_out``, ``loss_mid`` and ``loss_det``, the ``ratio``, and what :meth:`compare` logs.
        """
        first, second = batch.views
        layers = self.backbone.forward_layers(torch.cat([first, second]))  # (L, 2 * B / W, d)
        if self.teacher_update == "before_keys" and progress.part == 0:
            self._move_teacher(progress)
        targets = self._targets(first, second)
        # All three terms weigh the same losses of the layers, and L_det differs from the others only in where gradients
        # end. So one pass through the predictors does: it has the sum of the weights, and what flows on into the
        # projectors is scaled down to the share that is not L_det's.
        encoder_weights = self.encoder_weights(layers, progress)
        predictor_weights = encoder_weights + self.predictor_weight
        share = (encoder_weights / predictor_weights).nan_to_num()[:, None, None]  # of two weights of 0, nothing flows
        losses, logs = [], []
        for view, target in zip(layers.chunk(2, dim=1), reversed(targets), strict=True):
            predictions = self.predictors(scale_gradient(self.project(view), share))
            direction_losses, direction_logs = self.compare(predictions, target)
            losses.append(direction_losses)
            logs.append(direction_logs)
        per_layer = torch.stack(losses).sum(0).detach()
        return torch.stack([(predictor_weights * direction).sum() for direction in losses]).sum(), {
            "loss_out": per_layer[-1],
            "loss_mid": per_layer[:-1].mean(),
            "loss_det": per_layer.mean(),
            "ratio": per_layer.new_full((), cosine_ramp(self.ratio, progress.fraction)),
            **{name: torch.stack([direction[name] for direction in logs]).mean() for name in logs[0]},
        }

    def after_step(self, progress: Progress) -> None:
        """Move the teacher, unless it moves before the keys are embedded."""
        if self.teacher_update == "after_step":
            self._move_teacher(progress)

    def encoder_weights(self, layers: Tensor, progress: Progress) -> Tensor:
        """(L,): what the losses of the (L, ...) layers weigh for the encoder and the projectors: L_out and L_mid."""
        ratio = cosine_ramp(self.ratio, progress.fraction)
        weights = layers.new_full((len(layers),), ratio / (len(layers) - 1))
        weights[-1] = 1.0
        return weights

    @abstractmethod
    def compare(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The base's loss of one direction.

        Args:
            predictions: (L, B / W, D), this rank's, not normalised.
            targets: (B, D), the global batch's in its order, unit rows; no gradient goes there.

        Returns:
            (L,), each a mean over this rank's images; and values to log.
        """

    def _move_teacher(self, progress: Progress) -> None:
        momentum = cosine_momentum(self.momentum, progress.fraction, self.momentum_end)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)

    @torch.no_grad()
    def _targets(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """The teacher's embeddings of both views: (B, D) of the global batch, unit rows, the same on every rank."""
        features = self.teacher_backbone(torch.cat([first, second]))
        embedded = [unit_rows(self.teacher_projector(view[None])[0]) for view in features.chunk(2)]
        return list(gather_interleaved(torch.stack(embedded, dim=1)).unbind(1))


class SDMoCoV3(SDSSLWithTeacher):
    """SDSSL on MoCo v3: a prediction must find its target among those of the batch."""

    def __init__(self, config: options.RunConfig, method: options.SDSSL) -> None:
        super().__init__(config, method)
        self.temperature = method.temperature

    def compare(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """2 T times the cross-entropy.

        Logs ``accuracy``: the share of images whose own target is the one most similar to the last block's prediction.
        """
        losses, accuracy = contrast_layers(predictions, targets, self.temperature)
        return losses, {"accuracy": accuracy}


class SDBYOL(SDSSLWithTeacher):
    """SDSSL on BYOL: a prediction must equal its target."""

    def __init__(self, config: options.RunConfig, method: options.SDSSL) -> None:
        super().__init__(config, method)
        self.average_first_step = method.average_first_step

    def compare(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """2 - 2 cos. Logs nothing more."""
        return regression(predictions, local_share(targets)), {}

    def encoder_weights(self, layers: Tensor, progress: Progress) -> Tensor:
        """As ever but, if asked, in the first step: there the authors' code takes the mean over all blocks."""
        if self.average_first_step and progress.step == 0:
            return layers.new_full((len(layers),), 1 / len(layers))
        return super().encoder_weights(layers, progress)


# --- neither teacher nor predictors ----------------------------------------------------------------------------------


class SDSimCLR(SDSSL):
    """SDSSL on SimCLR: an embedding must find the last block's of the other view, which for it is a mere target.

    Both views go through the heads as one batch of 2 B, which is what batch statistics are taken over.
    """

    def __init__(self, config: options.RunConfig, method: options.SDSSL) -> None:
        super().__init__(config, method)
        self.temperature = method.temperature
        self.intermediate_contrast = method.intermediate_contrast
        self.gather_gradient = method.gather_gradient

    def encoders(self) -> dict[str, nn.Module]:
        return {"student": self.backbone}

    def embedders(self) -> dict[str, nn.Module]:
        return {"student": _Embedder(self.backbone, self.projector)}

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """L_out + ratio * L_mid: NT-Xent of the last block, and the mean loss of the blocks before it.

        Logs these two as ``loss_out`` and ``loss_mid``, the ``ratio``, and ``accuracy``: the share of views to which
        the other view of the image is the most similar, by the last block.
        """
        ratio = cosine_ramp(self.ratio, progress.fraction)
        layers = self.backbone.forward_layers(torch.cat(batch.views))  # (L, 2 * B / W, d)
        rows = torch.stack(unit_rows(self.project(layers)).chunk(2, dim=1), dim=2)  # (L, B / W, 2, D)
        outputs = gather_with_gradient(rows[-1], self.gather_gradient)  # (B, 2, D)
        loss_out, accuracy = nt_xent(rows[-1:], outputs, self.temperature)
        loss_mid = self._contrast_intermediate(rows[:-1], outputs.detach()).mean()
        loss = loss_out.squeeze(0) + ratio * loss_mid
        return loss, {
            "loss_out": loss_out.detach().squeeze(0),
            "loss_mid": loss_mid.detach(),
            "ratio": loss_mid.new_full((), ratio),
            "accuracy": accuracy,
        }

    def _contrast_intermediate(self, rows: Tensor, outputs: Tensor) -> Tensor:
        """(L - 1, B / W, 2, D) against (B, 2, D), both unit rows -> (L - 1,), the loss of each block."""
        if self.intermediate_contrast == "joint":
            return nt_xent(rows, outputs, self.temperature)[0]
        first, second = rows.unbind(2)
        directions = ((first, outputs[:, 1]), (second, outputs[:, 0]))
        # The cross-entropy itself, without MoCo v3's factor; the authors add the two directions.
        losses = [contrast_layers(queries, targets, self.temperature)[0] for queries, targets in directions]
        return torch.stack(losses).sum(0) / (2 * self.temperature)


class _Embedder(nn.Module):
    """A backbone and the projector of its last block: (B, 3, H, W) -> (B, D), not normalised."""

    def __init__(self, backbone: VisionTransformer, projector: StackedMLP) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.backbone(images)[None])
        return projected[0]


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor`` (which broadcasts to ``x``'s shape) on its way back."""
    return torch.lerp(x.detach(), x, factor.to(x.dtype))
