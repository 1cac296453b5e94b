"""SDSSL against the terms of its loss as the equations have them, and what a step does around it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config as options
from trainers.batch import Batch
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.methods.sdssl import SDSSL, scale_gradient


def test_scaled_gradient_leaves_the_value() -> None:
    x = torch.randn(3, 2, 2, requires_grad=True)
    factor = torch.tensor([0.0, 0.3, 1.0])[:, None, None]
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, factor.expand(3, 2, 2))


def head(stack: nn.Module, s: int, x: Tensor) -> Tensor:
    """Head ``s`` of a stack of MoCo v3 heads, in training mode, from its definition."""
    last = len(stack.linears) - 1
    for level, (linear, norm) in enumerate(zip(stack.linears, stack.norms, strict=True)):
        x = x @ linear.weight[s]
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        if level < last:
            width = x.shape[1]
            x = F.relu(x * norm.weight.view(-1, width)[s] + norm.bias.view(-1, width)[s])
    return x


def sdssl_oracle(method: SDSSL, first: Tensor, second: Tensor, ratio: float) -> dict[str, Tensor]:
    """The three terms of methods.md as they stand there, with two passes through every predictor."""
    depth, temperature = method.backbone.depth, method.temperature

    def c(prediction: Tensor, target: Tensor) -> Tensor:
        logits = F.normalize(prediction, dim=1) @ F.normalize(target, dim=1).T / temperature
        return 2 * temperature * F.cross_entropy(logits, torch.arange(len(target)))

    out = mid = det = torch.zeros((), dtype=torch.float64)
    for own, other in ((first, second), (second, first)):
        with torch.no_grad():
            target = head(method.teacher_projector, 0, method.teacher_backbone(other))
        for layer, features in enumerate(method.backbone.forward_layers(own)):
            is_last = layer == depth - 1
            projector = (method.projector, 0) if is_last else (method.intermediate_projectors, layer)
            z = head(*projector, features)
            term = c(head(method.predictors, layer, z), target)
            out, mid = (out + term, mid) if is_last else (out, mid + term / (depth - 1))
            det = det + c(head(method.predictors, layer, z.detach()), target) / depth
    return {"out": out, "mid": mid, "det": det, "loss": out + ratio * mid + depth * det}


def sdssl(ratio: float = 0.8) -> SDSSL:
    method = build_method(run_config(options.SDSSL(**SMALL_HEADS, ratio=ratio))).double()
    assert isinstance(method, SDSSL)
    for parameter in method.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("step", [0, 5, 7])
def test_sdssl_is_its_three_terms(step: int) -> None:
    torch.manual_seed(0)
    method = sdssl(ratio=0.8)
    first, second = (view.double() for view in views())
    ratio = 0.5 * 0.8 * (1 - math.cos(math.pi * step / 10))
    expected = sdssl_oracle(method, first, second, ratio)
    loss, logs = method(first, second, Progress(step, 10, 5))
    torch.testing.assert_close(loss, expected["loss"])
    for name in ("out", "mid", "det"):
        torch.testing.assert_close(logs[f"loss_{name}"], expected[name].detach())
    assert logs["ratio"].item() == pytest.approx(ratio)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    right = torch.autograd.grad(expected["loss"], list(trained.values()))
    for name, gradient, expected_gradient in zip(trained, gradients, right, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_sdssl_starts_with_the_encoder_gradient_of_moco_v3() -> None:
    torch.manual_seed(0)
    method = sdssl()
    first, second = (view.double() for view in views())
    encoder = [p for p in method.backbone.parameters() if p.requires_grad]
    loss, _ = method(first, second, Progress(0, 10, 5))
    gradients = torch.autograd.grad(loss, encoder, retain_graph=True)
    baseline = torch.autograd.grad(sdssl_oracle(method, first, second, 0.0)["out"], encoder, allow_unused=True)
    for gradient, expected in zip(gradients, baseline, strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if expected is None else expected)
    intermediate = torch.autograd.grad(loss, list(method.intermediate_projectors.parameters()))
    assert not any(gradient.any() for gradient in intermediate)


def test_sdssl_predictors_learn_without_the_encoder() -> None:
    """L_det: at ratio 0 the predictors of the blocks before the last still have their own gradient."""
    torch.manual_seed(0)
    method = sdssl()
    first, second = (view.double() for view in views())
    loss, _ = method(first, second, Progress(0, 10, 5))
    (gradient,) = torch.autograd.grad(loss, [method.predictors.linears[0].weight])
    assert all(layer.abs().max() > 1e-6 for layer in gradient)


def test_sdssl_heads_have_the_papers_shapes() -> None:
    method = build_method(run_config(options.SDSSL(), options.ViTTiny()))
    assert isinstance(method, SDSSL)

    def shapes(stack: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(linear.weight.shape) for linear in stack.linears]

    assert shapes(method.intermediate_projectors) == [(11, 192, 2048), (11, 2048, 2048), (11, 2048, 256)]
    assert shapes(method.projector) == [(1, 192, 4096), (1, 4096, 4096), (1, 4096, 256)]
    assert shapes(method.predictors) == [(12, 256, 4096), (12, 4096, 256)]
    assert shapes(method.teacher_projector) == shapes(method.projector)


def test_sdssl_teacher_moves_after_the_step_with_that_steps_momentum() -> None:
    method = build_method(run_config(options.SDSSL(**SMALL_HEADS, momentum=0.9)))
    assert isinstance(method, SDSSL)
    pairs = [(method.backbone, method.teacher_backbone), (method.projector, method.teacher_projector)]
    before = [[p.clone() for p in teacher.parameters()] for _, teacher in pairs]
    for student, _ in pairs:
        for parameter in student.parameters():
            parameter.data.add_(1.0)
    method(*views(), Progress(5, 10, 5))
    for (_, teacher), old in zip(pairs, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), old, strict=True))
    method.after_step(Progress(5, 10, 5))  # half-way: momentum 0.95
    for (student, teacher), old in zip(pairs, before, strict=True):
        for parameter, was, now in zip(teacher.parameters(), old, student.parameters(), strict=True):
            torch.testing.assert_close(parameter, 0.95 * was + 0.05 * now)


def test_sdssl_needs_a_block_before_the_last() -> None:
    with pytest.raises(ValueError, match=r"depth=1 leaves method sdssl no block"):
        run_config(METHODS["sdssl"], VIT.model_copy(update={"depth": 1}))
