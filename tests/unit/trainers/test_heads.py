"""Heads layer by layer, and a stack of heads against the same heads one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.batch_norm import SyncBatchNorm
from trainers.heads import StackedMLP, mlp


def test_an_mlp_has_the_layers_that_it_is_asked_for() -> None:
    everything = mlp([6, 5, 4, 3], nn.BatchNorm1d, hidden_bias=False, last_norm=nn.BatchNorm1d(3))
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in everything] == kinds
    assert [layer.bias is not None for layer in everything if isinstance(layer, nn.Linear)] == [False, False, True]
    assert everything(torch.randn(2, 6)).shape == (2, 3)
    plain = mlp([6, 5, 3], None, last_bias=False)
    assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.bias is not None for layer in plain if isinstance(layer, nn.Linear)] == [True, False]
    assert [type(layer) for layer in mlp([6, 3], nn.BatchNorm1d)] == [nn.Linear]


def separate_heads(stack: StackedMLP, widths: list[int]) -> list[nn.Sequential]:
    """MoCo v3's head as its layers, once per head of the stack and with that head's weights."""
    heads = []
    for s in range(stack.linears[0].weight.shape[0]):
        layers: list[nn.Module] = []
        for level, (linear, norm) in enumerate(zip(stack.linears, stack.norms, strict=True)):
            fan_in, fan_out = widths[level], widths[level + 1]
            is_last = level == len(widths) - 2
            dense = nn.Linear(fan_in, fan_out, bias=False).double()
            dense.weight.data.copy_(linear.weight[s].T)
            layers.append(dense)
            if isinstance(norm, nn.Identity):
                continue
            batch_norm = nn.BatchNorm1d(fan_out, affine=not is_last).double()
            if not is_last:
                batch_norm.weight.data.copy_(norm.weight.view(-1, fan_out)[s])
                batch_norm.bias.data.copy_(norm.bias.view(-1, fan_out)[s])
            layers += [batch_norm] if is_last else [batch_norm, nn.ReLU()]
        heads.append(nn.Sequential(*layers))
    return heads


@pytest.mark.parametrize("last_norm", [True, False])
def test_a_stack_is_its_heads(last_norm: bool) -> None:
    torch.manual_seed(0)
    widths = [6, 10, 8, 4]
    stack = StackedMLP(3, widths, last_norm=last_norm).double()
    for norm in stack.norms[:-1]:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    assert isinstance(stack.norms[-1], SyncBatchNorm if last_norm else nn.Identity)
    assert not list(stack.norms[-1].parameters())
    heads = separate_heads(stack, widths)
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = stack(mine)
    expected = torch.stack([head(theirs[s]) for s, head in enumerate(heads)])
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    for s, head in enumerate(heads):
        torch.testing.assert_close(stack.linears[1].weight.grad[s].T, head[3].weight.grad)
        torch.testing.assert_close(stack.norms[0].weight.grad.view(3, 10)[s], head[1].weight.grad)


def test_stacked_weights_are_drawn_as_linear_layers_are() -> None:
    torch.manual_seed(0)
    weight = StackedMLP(4, [100, 50]).linears[0].weight
    reference = nn.Linear(100, 50, bias=False).weight
    assert weight.shape == (4, 100, 50)
    assert 0.099 < weight.abs().max().item() <= 0.1
    torch.testing.assert_close(weight.std(), reference.std(), rtol=0.05, atol=0)
    assert not torch.equal(weight[0], weight[1])
