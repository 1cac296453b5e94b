"""SDSSL in a tiny size, and the terms of its losses, slowly and as the equations have them (``docs/methods.md``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny_methods import METHODS, VIT, batch, build
from trainers import config as options
from trainers.batch import Batch
from trainers.batch_norm import SyncBatchNorm
from trainers.heads import StackedMLP
from trainers.methods.sdssl import SDSSL, SDMoCoV3, SDSimCLR, SDSSLWithTeacher

WITH_TEACHER = ["moco_v3", "byol"]
BASES = [*WITH_TEACHER, "simclr"]
TEMPERATURE = 0.2


def method_options(base: str, **changes: Any) -> options.SDSSL:
    """Of the tiny heads; validated, so that defaults which the base decides are there."""
    tiny = METHODS[f"sdssl_{base}"].model_dump(exclude_unset=True)
    return options.SDSSL.model_validate({**tiny, "ratio": 0.8, **changes})


def sdssl(base: str, layer_norm: str = "shared", **changes: Any) -> SDSSL:
    """In float64, with weights that are not trivial anywhere."""
    vit = VIT.model_copy(update={"layer_norm": layer_norm})
    method = build(method_options(base, **changes), vit).double()
    assert isinstance(method, SDSSL)
    torch.manual_seed(0)
    for parameter in method.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method


def double_batch() -> Batch:
    return batch(dtype=torch.float64)


def head(stack: StackedMLP, s: int, x: Tensor) -> Tensor:
    """Head ``s`` of a stack of MoCo v3 heads, in training mode, from its definition."""
    last = len(stack.linears) - 1
    for level, (linear, norm) in enumerate(zip(stack.linears, stack.norms, strict=True)):
        x = x @ linear.weight[s]
        if level < last or isinstance(norm, SyncBatchNorm):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        if level < last:
            width = x.shape[1]
            x = F.relu(x * norm.weight.view(-1, width)[s] + norm.bias.view(-1, width)[s])
    return x


def projections(method: SDSSL, images: Tensor) -> list[Tensor]:
    """Of every block, (B, D) each."""
    layers = list(method.backbone.forward_layers(images))
    before_last = [head(method.intermediate_projectors, i, layer) for i, layer in enumerate(layers[:-1])]
    return [*before_last, head(method.projector, 0, layers[-1])]


def cos(x: Tensor, y: Tensor) -> Tensor:
    return x @ y / (x.norm() * y.norm())


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return -(scores[right].exp() / torch.stack([score.exp() for score in scores]).sum()).log()


def moco_v3_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    losses = [cross_entropy([cos(p, y) / TEMPERATURE for y in targets], b) for b, p in enumerate(predictions)]
    return 2 * TEMPERATURE * torch.stack(losses).mean()


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([2 - 2 * cos(p, y) for p, y in zip(predictions, targets, strict=True)]).mean()


def terms_with_teacher(method: SDSSLWithTeacher, images: Batch) -> dict[str, Tensor]:
    """L_out, L_mid and L_det, with two passes through every predictor."""
    depth = method.backbone.depth
    c = moco_v3_loss if isinstance(method, SDMoCoV3) else byol_loss
    out = mid = det = torch.zeros((), dtype=torch.float64)
    for own, other in (images.views, reversed(images.views)):
        with torch.no_grad():
            targets = head(method.teacher_projector, 0, method.teacher_backbone(other))
        for block, z in enumerate(projections(method, own)):
            term = c(head(method.predictors, block, z), targets)
            if block == depth - 1:
                out = out + term
            else:
                mid = mid + term / (depth - 1)
            det = det + c(head(method.predictors, block, z.detach()), targets) / depth
    return {"out": out, "mid": mid, "det": det}


def terms_of_simclr(method: SDSimCLR, images: Batch, *, crossed: bool = False) -> dict[str, Tensor]:
    """L_out and L_mid: row i of one view and row i + B of the other are the same image."""
    *blocks, last = projections(method, torch.cat(images.views))
    size = len(last)

    def nt_xent(rows: Tensor, outputs: Tensor) -> Tensor:
        losses = []
        for i, row in enumerate(rows):
            others = [j for j in range(size) if j != i]
            scores = [cos(row, outputs[j]) / TEMPERATURE for j in others]
            losses.append(cross_entropy(scores, others.index((i + size // 2) % size)))
        return torch.stack(losses).mean()

    def contrast_views(rows: Tensor, outputs: Tensor) -> Tensor:
        losses = [cross_entropy([cos(row, y) / TEMPERATURE for y in outputs], b) for b, row in enumerate(rows)]
        return torch.stack(losses).mean()

    fixed, mid = last.detach(), []
    for rows in blocks:
        if crossed:
            directions = zip(rows.chunk(2), reversed(fixed.chunk(2)), strict=True)
            mid.append(torch.stack([contrast_views(a, b) for a, b in directions]).sum())
        else:
            mid.append(nt_xent(rows, fixed))
    return {"out": nt_xent(last, last), "mid": torch.stack(mid).mean()}
