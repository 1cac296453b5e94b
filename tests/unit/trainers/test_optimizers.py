"""Optimizers compute what torch's compute (LARS: what the papers' codes do), and do not wake torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainers.config import LARS, SGD, AdamW, Train
from trainers.optimizers import build_optimizer, set_learning_rate

TRAINS = [
    Train(optimizer=SGD(momentum=0.9), learning_rate=0.1, weight_decay=0.01),
    Train(optimizer=SGD(momentum=0.8, nesterov=True), learning_rate=0.1, weight_decay=0.0),
    Train(optimizer=AdamW(beta1=0.8, beta2=0.9), learning_rate=0.01, weight_decay=0.1),
]
LARS_TRAIN = Train(optimizer=LARS(trust_coefficient=0.1), learning_rate=0.5, weight_decay=0.1)


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


@pytest.mark.parametrize("train", [*TRAINS, LARS_TRAIN], ids=lambda train: train.optimizer.name)
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


@pytest.mark.parametrize("chosen", [SGD(), AdamW(), LARS()], ids=lambda chosen: chosen.name)
def test_decay_may_leave_out_biases_and_norms(chosen: SGD | AdamW | LARS) -> None:
    net = network()
    train = Train(optimizer=chosen, weight_decay=0.3, decay_matrices_only=True)
    optimizer = build_optimizer(net.parameters(), train)
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


def test_the_optimizer_starts_at_the_scaled_peak() -> None:
    train = Train(batch_size=1024, learning_rate=0.3, scale_learning_rate="linear", optimizer=LARS())
    assert build_optimizer(network().parameters(), train).param_groups[0]["lr"] == pytest.approx(1.2)


# --- LARS


def slow_lars(weights: list[Tensor], gradients: list[list[Tensor]], rates: list[float], train: Train) -> list[Tensor]:
    """LARS tensor by tensor in float64, from You et al. (2017) and the codes of SimCLR, MoCo v3 and solo-learn."""
    chosen = train.optimizer
    assert isinstance(chosen, LARS)
    results = []
    for number, weight in enumerate(weights):
        w = weight.double()
        v = torch.zeros_like(w)
        for step_gradients, lr in zip(gradients, rates, strict=True):
            u = g = step_gradients[number].double()
            if w.dim() > 1:
                u = g + train.weight_decay * w
                below = u.norm() if chosen.denominator == "update" else g.norm() + train.weight_decay * w.norm()
                if w.norm() > 0 and below > 0:
                    ratio = float(chosen.trust_coefficient * w.norm() / below)
                    if chosen.clip_trust_ratio is not None:
                        ratio = min(ratio / lr, chosen.clip_trust_ratio) if lr else chosen.clip_trust_ratio
                    u = ratio * u
            if chosen.learning_rate_in_momentum:
                v = chosen.momentum * v + lr * u
                w = w - v
            else:
                v = chosen.momentum * v + u
                w = w - lr * v
        results.append(w)
    return results


LARS_FORMS = {
    "moco_v3 and byol": LARS(),
    "simclr": LARS(learning_rate_in_momentum=True),
    "solo-learn": LARS(trust_coefficient=0.02, denominator="sum", clip_trust_ratio=1.0),
    "a clip that binds": LARS(trust_coefficient=1.0, clip_trust_ratio=0.5),
    "no momentum": LARS(momentum=0.0, denominator="sum"),
}


@pytest.mark.parametrize("chosen", LARS_FORMS.values(), ids=LARS_FORMS)
def test_lars_is_that_of_the_papers(chosen: LARS) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 2, 2), (5, 4), (5,), (), (3, 3)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    weights[-1].zero_()  # a zero-initialised matrix has no ratio, until it has moved
    rates = [0.0, 0.3, 0.2, 0.05]  # the first step of a warm-up
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in rates]
    gradients[1][1].zero_()
    train = Train(optimizer=chosen, weight_decay=0.1)
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = build_optimizer(parameters, train)
    for step_gradients, lr in zip(gradients, rates, strict=True):
        set_learning_rate(optimizer, lr)
        for parameter, gradient in zip(parameters, step_gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for ours, theirs in zip(parameters, slow_lars(weights, gradients, rates, train), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def test_lars_moves_a_matrix_by_a_share_of_its_norm_whatever_its_gradient() -> None:
    """At learning rate 1, the first step of a matrix is the trust coefficient times its norm long."""
    for scale in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
        before = weight.detach().clone()
        train = Train(optimizer=LARS(trust_coefficient=0.01), weight_decay=0.0, learning_rate=1.0)
        optimizer = build_optimizer([weight], train)
        weight.grad = scale * torch.ones_like(weight)
        optimizer.step()
        assert float((weight.detach() - before).norm() / before.norm()) == pytest.approx(0.01, rel=1e-3)


def test_lars_passes_over_parameters_without_a_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer([used, unused], Train(optimizer=LARS(), weight_decay=0.1))
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert not torch.equal(used, torch.ones(2, 2)) and torch.equal(unused, torch.ones(2, 2))


def test_lars_lets_infinite_gradients_be_seen() -> None:
    """A weight that is not finite makes the next loss so, and the run stops; a step of 0 would hide it."""
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer([weight], Train(optimizer=LARS()))
    weight.grad = torch.full((2, 2), torch.inf)
    optimizer.step()
    assert not weight.isfinite().any()


# --- start-up


def test_training_steps_do_not_import_torchs_compiler() -> None:
    program = """
import sys
import torch
from trainers.batch import Batch
from trainers.config import LARS, SDSSL, SGD, AdamW, ISD, MoCoV2, ResNet18, RunConfig, Train, ViTTiny
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.optimizers import build_optimizer, set_learning_rate

vit = ViTTiny(width=16, heads=2, depth=2)
heads = dict(hidden_dim=8, intermediate_hidden_dim=8, predictor_hidden_dim=8)
for method, backbone, optimizer in [
    (MoCoV2(queue_size=8, bn_group_size=2), ResNet18(width=4), SGD()),
    (ISD(queue_size=8, bn_group_size=2), ResNet18(width=4), LARS()),
    (SDSSL(**heads), vit, AdamW()),
]:
    config = RunConfig(method=method, backbone=backbone, train=Train(batch_size=4, optimizer=optimizer))
    model = build_method(config, 10)
    optimizer = build_optimizer(model.parameters(), config.train)
    for step in range(2):
        progress = Progress(step, 10, 5)
        set_learning_rate(optimizer, 0.01)
        optimizer.zero_grad()
        views = torch.randn(2, 4, 3, 8, 8).unbind(0)
        loss, _ = model(Batch(views, torch.zeros(4, dtype=torch.int64)), progress)
        loss.backward()
        optimizer.step()
        model.after_step(progress)
    optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "torchvision"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
