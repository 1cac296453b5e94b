"""What ranks tell each other: gathers in global order, with and without gradient, and the shuffling of keys.

Owns the layout of a global batch over W ranks: rank r holds the samples r, r + W, r + 2W, ... Everything here gives
the same values for every W, and the same gradients but for the one that is called local. Leaves starting and stopping
the process group to the training script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.rng import derive, permutation


def rank() -> int:
    """This process' number; 0 without a process group."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Number of processes that share the global batch; 1 without a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def local_batch_size(batch_size: int, accumulation: int = 1) -> int:
    """How many samples of a global batch each rank holds at a time.

    Args:
        batch_size: the global batch.
        accumulation: parts that the batch is divided into first; divides it.

    Raises:
        ValueError: the ranks would hold different numbers.
    """
    world, part = world_size(), batch_size // accumulation
    if part % world:
        parts = "" if accumulation == 1 else f" in train.accumulation={accumulation} parts"
        raise ValueError(
            f"train.batch_size={batch_size}{parts} cannot be divided evenly among {world} processes; "
            f"use a number of processes that divides {part}"
        )
    return part // world


def local_share(x: Tensor) -> Tensor:
    """(B, ...) of the global batch -> (B / W, ...), a view of the rows that this rank holds."""
    return x[rank() :: world_size()]


def gather_interleaved(x: Tensor) -> Tensor:
    """The rows of all ranks in the order of the global batch, without gradient.

    Args:
        x: (B / W, ...), this rank's rows; the same shape on every rank.

    Returns:
        (B, ...), the same on every rank: row i is row i // W of rank i mod W. Shares memory with ``x`` if W is 1.
    """
    x, world = x.detach(), world_size()
    if world == 1:
        return x
    by_rank = x.new_empty((world * len(x), *x.shape[1:]))
    dist.all_gather_into_tensor(by_rank, x.contiguous())
    return by_rank.view(world, *x.shape).transpose(0, 1).flatten(0, 1)


#: What flows back through a gather, of the gradients that all ranks' losses have for a rank's rows: their sum, or the
#: rank's own alone.
GatherGradient = Literal["summed", "local"]


def gather_with_gradient(x: Tensor, gradient: GatherGradient = "summed") -> Tensor:
    """:func:`gather_interleaved` through which gradients flow back to the rank that each row came from.

    Args:
        x: (B / W, ...), this rank's rows; the same shape on every rank.
        gradient: every rank's loss depends on every row, so the gradient of a row is the sum over the ranks:
            ``summed``. ``local`` takes the rank's own share alone, as some published code does; it is wrong but for
            one process (``docs/methods.md``).

    Returns:
        (B, ...), the same on every rank. ``x`` itself if W is 1.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x, gradient)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: GatherGradient) -> Tensor:
        ctx.gradient = gradient
        return gather_interleaved(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.gradient == "local":
            return local_share(gradients[0]), None
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return local_share(total), None


def key_permutation(size: int, seed: int, step: int, view: int = 0, part: int = 0) -> Tensor:
    """The order in which keys are embedded: a permutation of ``size``, the same on every rank.

    A function of its arguments alone, so that a resumed run draws what the undisturbed one drew.

    Args:
        size: keys that are embedded together.
        seed: the run's.
        step, view, part: distinguish the draws of a run. Part 0 is what was drawn before there were parts.
    """
    names = ("key_permutation", step, view, part) if part else ("key_permutation", step, view)
    return torch.from_numpy(permutation(derive(seed, *names), size))


@torch.no_grad()
def forward_shuffled(network: Callable[[Tensor], Tensor], images: Tensor, order: Tensor) -> Tensor:
    """Embed a batch in another order than its own, and put the embeddings back ("shuffling BN", MoCo section 3.3).

    Batch normalisation by groups lets a network recognise which samples share a group. With the keys in another order
    than the queries, the group tells nothing about which key belongs to which query.

    Args:
        network: (B / W, ...) -> (B / W, D), applied to this rank's share of the permuted batch.
        images: (B / W, ...), this rank's share of the global batch.
        order: (B,), a permutation of the global batch, the same on every rank.

    Returns:
        (B, D), the embeddings of the *global* batch in its own order, the same on every rank, without gradient.
    """
    order = order.to(images.device, non_blocking=True)
    embedded = gather_interleaved(network(gather_interleaved(images)[local_share(order)]))
    restored = torch.empty_like(embedded)
    restored[order] = embedded
    return restored
