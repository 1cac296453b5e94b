"""The losses, written once: methods differ in what they embed and in which of these they apply to it.

All take this rank's share of the global batch, compute in float32 whatever the networks run in, and return a mean over
the share, so that DistributedDataParallel's average of gradients is the gradient of the global batch's mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.distributed import rank, world_size
from trainers.similarity import full_precision, unit_rows


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of picking the own key among it and the negatives (MoCo, equation 1).

    Args:
        query, key: (B, D), unit rows, float32; row b of both belongs to the same image.
        negatives: (K, D), unit rows; the same for every query.
        temperature: above 0.

    Returns:
        The mean over the batch, and the share of queries that are closer to their key than to any negative.
    """
    with full_precision(query):
        scaled = query / temperature
        positive = (scaled * key).sum(1)  # (B,)
        negative = scaled @ negatives.T  # (B, K)
        # The same as cross-entropy over [positive, negative], without the copy of (B, K) that joining them takes.
        loss = (torch.logaddexp(positive, negative.logsumexp(1)) - positive).mean()
        with torch.no_grad():
            accuracy = (positive > negative.amax(1)).float().mean()
    return loss, accuracy


def similarity_divergence(
    query: Tensor, key: Tensor, anchors: Tensor, *, student_temperature: float, teacher_temperature: float
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of the softmax over similarities to the anchors.

    Args:
        query: (B, D), the student's embeddings, unit rows, float32.
        key: (B, D), the teacher's embeddings of the same images, unit rows; no gradient goes there.
        anchors: (K, D), what both are compared with; not the keys of this batch.
        student_temperature, teacher_temperature: above 0; they divide the similarities before the softmax.

    Returns:
        The mean divergence over the batch, and the mean entropy of the teacher's distributions; both in nats.
    """
    with full_precision(query):
        with torch.no_grad():
            target = F.log_softmax(key / teacher_temperature @ anchors.T, dim=1)  # (B, K)
            entropy = -(target.exp() * target).sum(1).mean()
        prediction = F.log_softmax(query / student_temperature @ anchors.T, dim=1)  # (B, K)
        loss = F.kl_div(prediction, target, reduction="batchmean", log_target=True)
    return loss, entropy


def contrast_layers(predictions: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """MoCo v3's loss of every layer: 2 T times the cross-entropy of picking the own target from the global batch's.

    Args:
        predictions: (L, B / W, D), this rank's, not normalised.
        targets: (B, D), the global batch's in its order, unit rows; no gradient goes there.
        temperature: T, above 0.

    Returns:
        (L,), each a mean over this rank's images; and the share of images whose own target is the most similar to the
        last layer's prediction.
    """
    num_layers, batch = predictions.shape[:2]
    own = torch.arange(rank(), len(targets), world_size(), device=targets.device)  # (B / W,)
    with full_precision(predictions):
        logits = unit_rows(predictions) / temperature @ targets.T  # (L, B / W, B)
        losses = F.cross_entropy(logits.flatten(0, 1), own.repeat(num_layers), reduction="none")
        accuracy = (logits[-1].argmax(1) == own).float().mean()
    return 2 * temperature * losses.view(num_layers, batch).mean(1), accuracy


def regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """BYOL's loss of every layer (arXiv 2006.07733, equation 2): the squared distance of unit vectors, 2 - 2 cos.

    Args:
        predictions: (L, B / W, D), this rank's, not normalised.
        targets: (B / W, D), unit rows of the same images; no gradient goes there.

    Returns:
        (L,), each a mean over this rank's images: 0 where all predictions point along their targets, 4 where all point
        the other way.
    """
    with full_precision(predictions):
        cosines = (unit_rows(predictions) * targets.detach()).sum(-1)  # (L, B / W)
        return (2 - 2 * cosines).mean(1)


def nt_xent(queries: Tensor, candidates: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """SimCLR's loss of every layer (arXiv 2002.05709, equation 1): the cross-entropy of picking the other view.

    A query's candidates are both views of all images but the one that has the query's own place. So for the stack of
    the one layer whose outputs are the candidates this is NT-Xent, and for an earlier layer that of SD-SimCLR.

    Args:
        queries: (L, B / W, 2, D), both views of this rank's images, unit rows.
        candidates: (B, 2, D), those of the global batch in its order, unit rows. Gradients go there too; detach them
            to have none.
        temperature: above 0.

    Returns:
        (L,), each a mean over this rank's images and their two views, which is half the sum of both directions; and the
        share of the last layer's queries to which the other view is the most similar.
    """
    num_layers, batch = queries.shape[:2]
    images = torch.arange(rank(), len(candidates), world_size(), device=queries.device)
    own = (2 * images[:, None] + torch.arange(2, device=queries.device)).flatten()  # (2 B / W,)
    other = own ^ 1  # image b's views have the places 2 b and 2 b + 1
    with full_precision(queries):
        logits = queries.flatten(1, 2) / temperature @ candidates.flatten(0, 1).T  # (L, 2 B / W, 2 B)
        itself = torch.arange(2 * len(candidates), device=queries.device) == own[:, None]
        logits = logits.masked_fill(itself, -torch.inf)
        losses = F.cross_entropy(logits.flatten(0, 1), other.repeat(num_layers), reduction="none")
        accuracy = (logits[-1].argmax(1) == other).float().mean()
    return losses.view(num_layers, 2 * batch).mean(1), accuracy
