"""Batch normalisation by groups, against one group at a time; what needs two processes is in test_world_size.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainers.batch_norm import GroupBatchNorm, SyncBatchNorm, average_running_statistics, norm_over


def randomised(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        parameter.data.normal_()
    return norm.double()


def oracle(x: Tensor, norm: GroupBatchNorm, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output and new running statistics, sample by sample: sample i belongs to group i mod num_groups."""
    out, means, variances = torch.empty_like(x), [], []
    over = [d for d in range(x.dim()) if d != 1]
    shape = (1, -1, *(1,) * (x.dim() - 2))
    for g in range(num_groups):
        members = [i for i in range(len(x)) if i % num_groups == g]
        part = x[members]
        mean, var = part.mean(over), part.var(over, correction=0)
        normed = (part - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt()
        out[members] = normed * norm.weight.view(shape) + norm.bias.view(shape)
        means.append(mean)
        variances.append(part.var(over, correction=1))
    keep = 1 - norm.momentum
    running_mean = keep * norm.running_mean + norm.momentum * torch.stack(means).mean(0)
    running_var = keep * norm.running_var + norm.momentum * torch.stack(variances).mean(0)
    return out, running_mean, running_var


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 2)])
@pytest.mark.parametrize("group_size", [3, 4, 12])
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_group_is_normalised_alone(shape: tuple[int, ...], group_size: int, channels_last: bool) -> None:
    torch.manual_seed(0)
    norm = randomised(GroupBatchNorm(5, group_size))
    assert isinstance(norm, GroupBatchNorm)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    expected, running_mean, running_var = oracle(x, norm, len(x) // group_size)
    weight = torch.randn_like(expected)
    inputs = [x, norm.weight, norm.bias]
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    out = norm(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad((out * weight).sum(), inputs), expected_gradients)
    torch.testing.assert_close(norm.running_mean, running_mean)
    torch.testing.assert_close(norm.running_var, running_var)


def test_running_statistics_follow_the_groups_over_several_steps() -> None:
    norm = GroupBatchNorm(4, group_size=2).double()
    for step in range(3):
        x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        _, mean, var = oracle(x, norm, 4)
        norm(x)
        torch.testing.assert_close((norm.running_mean, norm.running_var), (mean, var))


def test_in_evaluation_it_is_plain_batch_norm() -> None:
    plain = randomised(nn.BatchNorm2d(3))
    plain(torch.randn(16, 3, 2, 2, dtype=torch.float64))
    grouped = GroupBatchNorm(3, group_size=4).double()
    grouped.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)  # 5: evaluation knows no groups
    assert torch.equal(grouped.eval()(x), plain.eval()(x))


def test_autocast_keeps_statistics_in_float32() -> None:
    norm = GroupBatchNorm(3, group_size=4)
    out = norm(torch.randn(8, 3, 2, 2).bfloat16())
    assert out.dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    assert norm.running_mean.any()


@pytest.mark.parametrize("batch", [6, 2])
def test_a_batch_that_makes_no_whole_groups_is_refused_with_its_numbers(batch: int) -> None:
    with pytest.raises(ValueError, match=rf"method.bn_group_size=4 of .* = {batch}\) cannot be dealt to 1 processes"):
        GroupBatchNorm(3, group_size=4)(torch.randn(batch, 3))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3, 2\)"):
        GroupBatchNorm(3, group_size=2)(torch.randn(4, 3, 2))


def test_with_one_process_synchronised_is_plain_and_averaging_does_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    plain, synchronised = nn.BatchNorm1d(6), SyncBatchNorm(6)
    assert torch.equal(plain(x), synchronised(x))
    assert torch.equal(plain.running_var, synchronised.running_var)
    before = synchronised.running_mean.clone()
    average_running_statistics(synchronised)
    assert torch.equal(before, synchronised.running_mean)


def test_a_network_gets_groups_or_the_whole_batch() -> None:
    grouped = norm_over(4, local_batch=8)(6)
    assert isinstance(grouped, GroupBatchNorm)
    assert (grouped.num_features, grouped.group_size) == (6, 4)
    assert isinstance(norm_over(None, local_batch=7)(6), SyncBatchNorm)
    with pytest.raises(ValueError, match="bn_group_size=3"):
        norm_over(3, local_batch=8)


def test_without_scale_and_offset_the_output_is_normalised() -> None:
    torch.manual_seed(0)
    out = SyncBatchNorm(6, affine=False)(5 * torch.randn(64, 6) + 3)
    torch.testing.assert_close(out.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(6), rtol=0, atol=1e-4)
