"""Optimizers compute what torch's compute, and do not wake torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from trainers.config import SGD, AdamW, Train
from trainers.optimizers import build_optimizer, set_learning_rate

TRAINS = [
    Train(optimizer=SGD(momentum=0.9), learning_rate=0.1, weight_decay=0.01),
    Train(optimizer=SGD(momentum=0.8, nesterov=True), learning_rate=0.1, weight_decay=0.0),
    Train(optimizer=AdamW(beta1=0.8, beta2=0.9), learning_rate=0.01, weight_decay=0.1),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2))


def reference_optimizer(net: nn.Module, train: Train) -> Optimizer:
    chosen = train.optimizer
    if isinstance(chosen, SGD):
        return torch.optim.SGD(
            net.parameters(),
            train.learning_rate,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
            weight_decay=train.weight_decay,
        )
    return torch.optim.AdamW(
        net.parameters(), train.learning_rate, (chosen.beta1, chosen.beta2), weight_decay=train.weight_decay
    )


def steps(net: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        set_learning_rate(optimizer, 0.01 / (step + 1))
        optimizer.step()


@pytest.mark.parametrize("train", TRAINS, ids=lambda train: train.optimizer.name)
def test_steps_are_those_of_torchs_own_optimizer(train: Train) -> None:
    ours, theirs = network(), network()
    steps(ours, build_optimizer(ours.parameters(), train), 0, 4)
    steps(theirs, reference_optimizer(theirs, train), 0, 4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())


@pytest.mark.parametrize("train", TRAINS, ids=lambda train: train.optimizer.name)
def test_a_resumed_optimizer_goes_on_bit_for_bit(train: Train) -> None:
    straight, interrupted = network(), network()
    steps(straight, build_optimizer(straight.parameters(), train), 0, 4)
    first = build_optimizer(interrupted.parameters(), train)
    steps(interrupted, first, 0, 2)
    resumed = build_optimizer(interrupted.parameters(), train)
    resumed.load_state_dict(first.state_dict())
    steps(interrupted, resumed, 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), interrupted.parameters(), strict=True))


def test_an_optimizer_of_torchs_own_in_the_same_process_changes_nothing() -> None:
    reference_optimizer(network(), TRAINS[0])  # torch hooks the class that it makes an instance of
    test_steps_are_those_of_torchs_own_optimizer(TRAINS[0])


def test_decay_may_leave_out_biases_and_norms() -> None:
    net = network()
    optimizer = build_optimizer(net.parameters(), Train(weight_decay=0.3, decay_matrices_only=True))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in net.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.3,
        "2.bias": 0.0,
    }


def test_frozen_parameters_are_left_out() -> None:
    net = network()
    net[0].requires_grad_(False)
    for matrices_only in (False, True):
        optimizer = build_optimizer(net.parameters(), Train(decay_matrices_only=matrices_only))
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_learning_rate_is_set_for_every_group() -> None:
    net = network()
    optimizer = build_optimizer(net.parameters(), Train(decay_matrices_only=True))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_training_steps_do_not_import_torchs_compiler() -> None:
    program = """
import sys
import torch
from trainers.config import SDSSL, SGD, AdamW, ISD, MoCoV2, ResNet18, RunConfig, Train, ViTTiny
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.optimizers import build_optimizer, set_learning_rate

vit = ViTTiny(width=16, heads=2, depth=2)
heads = dict(hidden_dim=8, intermediate_hidden_dim=8, predictor_hidden_dim=8)
for method, backbone, optimizer in [
    (MoCoV2(queue_size=8, bn_group_size=2), ResNet18(width=4), SGD()),
    (ISD(queue_size=8, bn_group_size=2), ResNet18(width=4), SGD()),
    (SDSSL(**heads), vit, AdamW()),
]:
    config = RunConfig(method=method, backbone=backbone, train=Train(batch_size=4, optimizer=optimizer))
    model = build_method(config)
    optimizer = build_optimizer(model.parameters(), config.train)
    for step in range(2):
        progress = Progress(step, 10, 5)
        set_learning_rate(optimizer, 0.01)
        optimizer.zero_grad()
        loss, _ = model(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), progress)
        loss.backward()
        optimizer.step()
        model.after_step(progress)
    optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "torchvision"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
