"""Each method's loss as a whole, against its paper's equations on the outputs of its networks; and its heads' layers.

The losses by themselves are in test_losses.py; here it matters what is compared with what, and where gradients end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_methods import BATCH, METHODS, VIT, batch, build
from trainers import config as options
from trainers.methods.base import Method, Progress

NOW = Progress(0, 10, 5)
IMAGES = batch(dtype=torch.float64)


def method_of(name: str, **update: Any) -> Method:
    """In float64, on a vision transformer: what an image becomes there does not depend on its company.

    Teacher and student differ, as in the middle of a training, and the teacher stays where it is.
    """
    still = {"momentum": 1.0, "momentum_end": None} if hasattr(METHODS[name], "momentum") else {}
    method = build(METHODS[name].model_copy(update=still | update), VIT).double()
    torch.manual_seed(0)
    for parameter_name, parameter in method.named_parameters():
        if parameter_name.startswith("student."):
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return method


def unit(row: Tensor) -> Tensor:
    return row / row.norm()


def mean(terms: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def assert_same_loss(method: Method, expected: Callable[[Method], Tensor]) -> dict[str, Tensor]:
    """The loss and all its gradients. Of a copy, because networks change their running statistics as they compute."""
    twin = copy.deepcopy(method)
    loss, logs = method(IMAGES, NOW)
    loss.backward()
    right = expected(twin)
    torch.testing.assert_close(loss, right)
    right.backward()
    for (name, parameter), other in zip(method.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
    return logs


# --- queues ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "moco_v2_symmetric"])
def test_moco_is_its_equation(name: str) -> None:
    """MoCo, equation 1: the own key at place 0, the queue behind it."""

    def direction(method: Method, queries: Tensor, keys: Tensor) -> Tensor:
        embedded, targets = method.student(queries), method.teacher(keys).detach()
        queue = method.queue.rows
        scores = (
            torch.cat([(unit(q) @ unit(k))[None], queue @ unit(q)]) / method.temperature
            for q, k in zip(embedded, targets, strict=True)
        )
        return mean(-row.log_softmax(0)[0] for row in scores)

    def expected(method: Method) -> Tensor:
        first, second = IMAGES.views
        there = direction(method, first, second)
        return there + direction(method, second, first) if name == "moco_v2_symmetric" else there

    logs = assert_same_loss(method_of(name), expected)
    assert list(logs) == ["accuracy"]


@pytest.mark.parametrize("name", ["isd", "isd_plus"])
def test_isd_is_its_equation(name: str) -> None:
    """Divergence of the student's similarities to the stored embeddings from the teacher's; no own key among them."""
    # The one projector has a batch norm, and the shuffle makes other groups: without it, company stays the same.
    method = method_of(name, shuffle_keys=False)

    def expected(method: Method) -> Tensor:
        student, teacher = METHODS[name].student_temperature, METHODS[name].teacher_temperature
        predicted, targets = method.predictor(method.student(IMAGES.views[0])), method.teacher(IMAGES.views[1]).detach()
        divergences = []
        for q, k in zip(predicted, targets, strict=True):
            p = (method.queue.rows @ unit(k) / teacher).softmax(0)
            s = (method.queue.rows @ unit(q) / student).softmax(0)
            divergences.append((p * (p / s).log()).sum())
        return mean(iter(divergences))

    logs = assert_same_loss(method, expected)
    assert list(logs) == ["kl", "target_entropy"]


def test_isd_with_identical_networks_and_views_has_no_loss() -> None:
    method = build("isd", VIT)
    method.predictor = nn.Identity()
    first, second = batch().views
    assert method(batch()._replace(views=(first, first)), NOW)[0].item() == pytest.approx(0, abs=1e-5)
    assert method(batch()._replace(views=(first, second)), NOW)[0].item() > 1e-3


# --- regressions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["byol", "byol_one_way", "byol_asym"])
def test_byol_is_its_equation(name: str) -> None:
    """BYOL, equation 2, in the direction(s) of the form; nothing flows into the targets."""
    method = method_of(name, **({"shuffle_keys": False} if name == "byol_asym" else {}))

    def expected(method: Method) -> Tensor:
        first, second = IMAGES.views
        pairs = [(first, second), (second, first)] if name == "byol" else [(first, second)]
        losses = []
        for own, other in pairs:
            predicted, targets = method.predictor(method.student(own)), method.teacher(other).detach()
            losses.append(mean((unit(p) - unit(z)).square().sum() for p, z in zip(predicted, targets, strict=True)))
        return torch.stack(losses).sum()

    logs = assert_same_loss(method, expected)
    assert not logs


# --- contrasts within the batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_moco_v3_is_algorithm_1(temperature: float) -> None:
    def expected(method: Method) -> Tensor:
        losses = []
        for own, other in (IMAGES.views, reversed(IMAGES.views)):
            predicted, keys = method.predictor(method.student(own)), method.teacher(other).detach()
            keys = torch.stack([unit(key) for key in keys])
            scores = (keys @ unit(q) / temperature for q in predicted)
            losses.append(2 * temperature * mean(-row.log_softmax(0)[b] for b, row in enumerate(scores)))
        return torch.stack(losses).sum()

    logs = assert_same_loss(method_of("moco_v3", temperature=temperature), expected)
    assert list(logs) == ["accuracy"]


@pytest.mark.parametrize("directions", ["sum", "mean"])
def test_simclr_is_its_equation(directions: str) -> None:
    """SimCLR, equation 1, for all 2 B rows; the authors' code adds what the two views of an image have."""

    def expected(method: Method) -> Tensor:
        rows = [unit(row) for row in method.student(torch.cat(IMAGES.views))]
        losses = []
        for i, row in enumerate(rows):
            scores = torch.stack([row @ other / 0.1 for j, other in enumerate(rows) if j != i])
            right = (i + BATCH) % (2 * BATCH)
            losses.append(-scores.log_softmax(0)[right - (right > i)])
        return mean(iter(losses)) if directions == "mean" else torch.stack(losses).sum() / BATCH

    logs = assert_same_loss(method_of("simclr", directions=directions), expected)
    assert list(logs) == ["accuracy"]


def test_simclr_takes_batch_statistics_over_both_views_together() -> None:
    """And BYOL and MoCo v3 over one view at a time, as their authors' codes do."""
    for name, expected in (("simclr", [2 * BATCH]), ("byol", [BATCH, BATCH]), ("moco_v3", [BATCH, BATCH])):
        method, sizes = build(name), []
        method.student.register_forward_pre_hook(lambda _, args, sizes=sizes: sizes.append(len(args[0])))
        method(batch(), NOW)
        assert sizes == expected


# --- heads -----------------------------------------------------------------------------------------------------------


def layers(head: nn.Module) -> str:
    """A head in one line, such as ``512+b BN R 128``: widths of linear layers, +b with a bias, BN-b without offset."""
    words = []
    for module in head.children():
        if isinstance(module, nn.Linear):
            words.append(f"{module.out_features}" + ("+b" if module.bias is not None else ""))
        elif isinstance(module, nn.ReLU):
            words.append("R")
        else:
            plain = module.weight is None and module.bias is None
            fixed = module.bias is not None and not module.bias.requires_grad
            words.append("BN-wb" if plain else "BN-b" if fixed and module.weight.requires_grad else "BN")
    return " ".join(words)


RESNET18 = options.ResNet18()
SMALL_QUEUE: dict[str, Any] = {"queue_size": 16, "bn_group_size": 4}


@pytest.mark.parametrize(
    ("method_options", "backbone", "projector", "predictor"),
    [
        (options.MoCoV1(**SMALL_QUEUE), RESNET18, "128+b", None),
        (options.MoCoV2(**SMALL_QUEUE), RESNET18, "512+b R 128+b", None),
        (options.MoCoV2(**SMALL_QUEUE, hidden_dim=2048, projection_dim=256), RESNET18, "2048+b R 256+b", None),
        (options.ISD(**SMALL_QUEUE), RESNET18, "", "512 BN R 512+b"),
        (options.ISD(**SMALL_QUEUE, projector=True), RESNET18, "1024+b BN R 128+b", "1024+b BN R 128+b"),
        (options.BYOLAsym(bn_group_size=4), RESNET18, "1024+b BN R 128+b", "1024+b BN R 128+b"),
        (options.BYOL(), RESNET18, "4096+b BN R 256", "4096+b BN R 256"),
        (options.SimCLR(), RESNET18, "512 BN R 512 BN R 128 BN-b", None),
        (options.SimCLR(projector_layers=2, last_norm=False), RESNET18, "512 BN R 128", None),
        (options.SimCLR(hidden_dim=2048, hidden_norm=False), RESNET18, "2048+b R 2048+b R 128 BN-b", None),
        (options.SimCLR(projector_layers=1), RESNET18, "128 BN-b", None),
        (options.MoCoV3(), VIT, "4096 BN R 4096 BN R 256 BN-wb", "4096 BN R 256 BN-wb"),
        (
            options.MoCoV3(projector_layers=2, predictor_last_norm=False),
            RESNET18,
            "4096 BN R 256 BN-wb",
            "4096 BN R 256",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, options.Section) else None,
)
def test_heads_are_the_papers(
    method_options: options.Method, backbone: options.Backbone, projector: str, predictor: str | None
) -> None:
    method = build(method_options, backbone)
    assert layers(method.student.projector) == projector
    if predictor is None:
        assert not hasattr(method, "predictor")
    else:
        assert layers(method.predictor) == predictor
    if hasattr(method, "queue"):
        assert method.queue.rows.shape == (16, next(iter(method.embedders().values()))(batch().views[0]).shape[1])


def test_simclrs_last_norm_has_no_offset_after_training_either() -> None:
    method = build("simclr")
    last = method.student.projector[-1]
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(batch(), NOW)[0].backward()
    optimizer.step()
    assert not last.bias.any()
    assert not torch.equal(last.weight, torch.ones_like(last.weight))
