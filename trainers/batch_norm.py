"""Batch normalisation whose statistics do not depend on the number of processes.

:class:`GroupBatchNorm` takes statistics over fixed small groups of the global batch, as MoCo v2 and ISD do on several
GPUs; :class:`SyncBatchNorm` over all of it, as SimCLR, BYOL, MoCo v3 and SDSSL do. Both are plain batch normalisation
in evaluation.

Neither counts batches (``num_batches_tracked`` stays 0): the running averages have a fixed momentum, so nobody reads
the count, and it would cost a kernel per layer and step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.distributed import gather_with_gradient, world_size


class GroupBatchNorm(_BatchNorm):
    """Batch normalisation over groups of ``group_size`` samples of the global batch, the same for any world size.

    Of a global batch of B samples, group g holds the samples i with i mod (B / group_size) = g. Rank r of W holds the
    samples i with i mod W = r, so whenever W divides the number of groups, each group lies whole on one rank and is
    the same set of samples, whatever W is. The running statistics move by the mean over this rank's groups;
    :func:`average_running_statistics` makes that the mean over all groups.

    Accepts (B / W, C) and (B / W, C, H, W).

    Args:
        num_features: channels C.
        group_size: samples per group; divides the local batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, group_size: int) -> None:
        super().__init__(num_features)
        self.group_size = group_size

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        groups = num_local_groups(len(input), self.group_size)
        # Sample j of this rank belongs to group j mod groups, so samples-by-groups times channels is a mere view, and
        # torch's kernel then keeps one pair of statistics per group and channel. (Of a channels-last tensor this is a
        # copy: there, a sample's channels are not adjacent in memory.)
        grouped = input.reshape(len(input) // groups, groups * self.num_features, *input.shape[2:])
        mean, var = self.running_mean.repeat(groups), self.running_var.repeat(groups)
        assert self.momentum is not None
        normed = F.batch_norm(
            grouped, mean, var, self.weight.repeat(groups), self.bias.repeat(groups), True, self.momentum, self.eps
        )
        # Running statistics are a linear average, so the mean of updated copies is the copy updated by the mean.
        self.running_mean.copy_(mean.view(groups, -1).mean(0))
        self.running_var.copy_(var.view(groups, -1).mean(0))
        return normed.view(input.shape)

    def _check_input_dim(self, input: Tensor) -> None:
        _check_batch_of_vectors_or_maps(input)

    def extra_repr(self) -> str:
        return f"{self.num_features}, group_size={self.group_size}"


def num_local_groups(local_batch: int, group_size: int) -> int:
    """Groups that this rank holds.

    Raises:
        ValueError: the groups cannot be laid out so that each lies on one rank.
    """
    groups, rest = divmod(local_batch, group_size)
    if rest or not groups:
        world = world_size()
        batch = local_batch * world
        raise ValueError(
            f"{batch // group_size} batch-norm groups (method.bn_group_size={group_size} of "
            f"train.batch_size / train.accumulation = {batch}) cannot be dealt to {world} processes; "
            f"use a number of processes that divides the number of groups"
        )
    return groups


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Replace the running statistics of every :class:`GroupBatchNorm` by their mean over the ranks, in one message.

    Called after each step it makes them what one process would have computed, and the same on every rank.
    """
    world = world_size()
    if world == 1:
        return
    norms = [m for m in module.modules() if isinstance(m, GroupBatchNorm)]
    statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    if not statistics:
        return
    flat = torch.cat(statistics)
    dist.all_reduce(flat)
    averaged = torch.split(flat / world, [len(buffer) for buffer in statistics])
    torch._foreach_copy_(statistics, list(averaged))


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over the global batch; plain batch normalisation with one process.

    Every rank's mean and variance are gathered and combined (Chan et al. 1979: no difference of large sums), with
    gradients through the gather. Accepts (B / W, C) and (B / W, C, H, W).

    NOTE: torch's own synchronised batch norm runs on CUDA only, and DistributedDataParallel refuses to wrap a module
    that holds one on the CPU; this one computes the same on every device.
    """

    running_mean: Tensor
    running_var: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.momentum is not None
        if world_size() == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        over = [dim for dim in range(input.dim()) if dim != 1]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(x, dim=over, correction=0)  # (C,) each
        means, variances = gather_with_gradient(torch.stack([mean, variance])[None]).unbind(1)  # (W, C) each
        # Every rank holds the same number of samples, so pooling is a plain mean.
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        count = world_size() * input.numel() // input.shape[1]
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * (count / (count - 1)), self.momentum)
        shape = (1, -1, *(1,) * (input.dim() - 2))
        normed = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        _check_batch_of_vectors_or_maps(input)


def _check_batch_of_vectors_or_maps(x: Tensor) -> None:
    if x.dim() not in (2, 4):
        raise ValueError(f"batch norm takes (B, C) or (B, C, H, W), got {tuple(x.shape)}")


def norm_over(group_size: int | None, local_batch: int) -> Callable[[int], _BatchNorm]:
    """What makes the batch-norm layers of a network, given their channels.

    Args:
        group_size: samples per group; None takes statistics over the global batch.
        local_batch: samples that this rank computes at a time.

    Raises:
        ValueError: the groups cannot be laid out so that each lies on one rank.
    """
    if group_size is None:
        return SyncBatchNorm
    num_local_groups(local_batch, group_size)
    return partial(GroupBatchNorm, group_size=group_size)
