"""SDSSL on its three bases: its losses against the terms of the equations, and what a step does around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.tiny_methods import VIT, batch, build, run_config, take_steps
from tests.tiny_sdssl import BASES, WITH_TEACHER, double_batch, sdssl, terms_of_simclr, terms_with_teacher
from trainers import config as options
from trainers.batch_norm import SyncBatchNorm
from trainers.heads import Encoder, StackedMLP, mlp
from trainers.methods.base import Method, Progress
from trainers.methods.sdssl import SDBYOL, SDSSL, SDSimCLR, SDSSLWithTeacher, scale_gradient

DEPTH, STEPS = VIT.depth, 10


def gradients(loss: Tensor, method: nn.Module) -> dict[str, Tensor]:
    """Of every trained parameter; 0 where the loss does not depend on it."""
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(trained[n]) if g is None else g for n, g in zip(trained, found, strict=True)}


def assert_all_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


# --- the losses -------------------------------------------------------------------------------------------------------


def ramp(step: int) -> float:
    return 0.5 * 0.8 * (1 - math.cos(math.pi * step / STEPS))


WITH_TEACHER_FORMS: list[tuple[str, dict[str, Any]]] = [
    ("moco_v3", {}),
    ("moco_v3", {"predictor_weight": 0.3}),
    ("moco_v3", {"predictor_weight": 0.0}),
    ("moco_v3", {"last_norm": "intermediate"}),
    ("moco_v3", {"last_norm": "none"}),
    ("moco_v3", {"layer_norm": "per_layer"}),
    ("byol", {}),
    ("byol", {"last_norm": "all"}),
    ("byol", {"predictor_weight": 0.3}),
]


@pytest.mark.parametrize("step", [0, 5, 7])
@pytest.mark.parametrize(("base", "changes"), WITH_TEACHER_FORMS)
def test_loss_is_its_three_terms(base: str, changes: dict[str, Any], step: int) -> None:
    method = sdssl(base, **changes)
    assert isinstance(method, SDSSLWithTeacher)
    terms = terms_with_teacher(method, double_batch())
    weight = changes.get("predictor_weight", 1.0)
    expected = terms["out"] + ramp(step) * terms["mid"] + weight * DEPTH * terms["det"]
    loss, logs = method(double_batch(), Progress(step, STEPS, 5))
    # The value has what the predictors' gradients are those of: every term, whatever reaches the encoder.
    torch.testing.assert_close(loss, expected)
    for name in ("out", "mid", "det"):
        torch.testing.assert_close(logs[f"loss_{name}"], terms[name].detach())
    assert_all_close(gradients(loss, method), gradients(expected, method))


@pytest.mark.parametrize("step", [0, 5, 7])
@pytest.mark.parametrize("changes", [{}, {"intermediate_contrast": "crossed"}, {"last_norm": "none"}])
def test_loss_on_simclr_is_its_two_terms(changes: dict[str, Any], step: int) -> None:
    method = sdssl("simclr", **changes)
    assert isinstance(method, SDSimCLR)
    terms = terms_of_simclr(method, double_batch(), crossed="intermediate_contrast" in changes)
    expected = terms["out"] + ramp(step) * terms["mid"]
    loss, logs = method(double_batch(), Progress(step, STEPS, 5))
    torch.testing.assert_close(loss, expected)
    for name in ("out", "mid"):
        torch.testing.assert_close(logs[f"loss_{name}"], terms[name].detach())
    assert_all_close(gradients(loss, method), gradients(expected, method))


def test_first_step_of_the_authors_byol_averages_all_blocks() -> None:
    method = sdssl("byol", average_first_step=True)
    assert isinstance(method, SDBYOL)
    terms = terms_with_teacher(method, double_batch())
    average = (terms["out"] + (DEPTH - 1) * terms["mid"]) / DEPTH + DEPTH * terms["det"]
    first, _ = method(double_batch(), Progress(0, STEPS, 5))
    torch.testing.assert_close(first, average)
    assert_all_close(gradients(first, method), gradients(average, method))
    second, _ = method(double_batch(), Progress(1, STEPS, 5))
    torch.testing.assert_close(second, terms["out"] + ramp(1) * terms["mid"] + DEPTH * terms["det"])


def test_scaled_gradient_leaves_the_value() -> None:
    x = torch.randn(3, 2, 2, requires_grad=True)
    factor = torch.tensor([0.0, 0.3, 1.0])[:, None, None]
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, factor.expand(3, 2, 2))


# --- what reaches whom -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_ratio_grows_from_nothing_along_half_a_cosine(base: str) -> None:
    method = sdssl(base)
    ratios = [method(double_batch(), Progress(step, STEPS, 5))[1]["ratio"].item() for step in (0, 5, 9)]
    assert ratios == pytest.approx([0.0, 0.4, ramp(9)])


@pytest.mark.parametrize("base", WITH_TEACHER)
@pytest.mark.parametrize("step", [0, 5])
def test_predictors_own_loss_reaches_neither_encoder_nor_projectors(base: str, step: int) -> None:
    images = double_batch()
    with_it, without = sdssl(base), sdssl(base, predictor_weight=0.0)
    ours = gradients(with_it(images, Progress(step, STEPS, 5))[0], with_it)
    theirs = gradients(without(images, Progress(step, STEPS, 5))[0], without)
    for name, gradient in ours.items():
        if name.startswith("predictors."):
            assert not torch.allclose(gradient, theirs[name]), name
        else:
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-12)
    first = ours["predictors.linears.0.weight"]
    assert all(block.abs().max() > 1e-6 for block in first), "every predictor learns, also at ratio 0"


@pytest.mark.parametrize("base", BASES)
def test_blocks_before_the_last_get_nothing_in_the_first_step(base: str) -> None:
    method = sdssl(base)
    found = gradients(method(double_batch(), Progress(0, STEPS, 5))[0], method)
    for name, gradient in found.items():
        if name.startswith("intermediate_projectors."):
            assert not gradient.any(), name


def baseline(method: SDSSL, base: str) -> Method:
    """The method that SDSSL is built on, with its networks' weights and heads of the same form."""
    tiny = {"projection_dim": 6, "hidden_dim": 10}
    if base == "simclr":
        plain: Any = build(options.SimCLR(**tiny, temperature=0.2, directions="mean"), VIT)
    else:
        kind = options.MoCoV3 if base == "moco_v3" else options.BYOL
        plain = build(kind(**tiny, predictor_hidden_dim=12, teacher_update="after_step"), VIT)
        assert isinstance(method, SDSSLWithTeacher)
        plain.teacher = Encoder(method.teacher_backbone, one_head(method.teacher_projector, 0))
        plain.predictor = one_head(method.predictors, DEPTH - 1)
    plain.student = Encoder(method.backbone, one_head(method.projector, 0))
    assert isinstance(plain, Method)
    return plain.double()


def one_head(stack: StackedMLP, s: int) -> nn.Sequential:
    """Head ``s`` of a stack as the baselines have their heads, with the same values in parameters of its own."""
    widths = [stack.linears[0].weight.shape[1], *(linear.weight.shape[2] for linear in stack.linears)]
    norm = SyncBatchNorm(widths[-1], affine=False) if isinstance(stack.norms[-1], SyncBatchNorm) else None
    alone = mlp(widths, SyncBatchNorm, hidden_bias=False, last_bias=False, last_norm=norm).double()
    linears = [module for module in alone if isinstance(module, nn.Linear)]
    for ours, theirs in zip(linears, stack.linears, strict=True):
        ours.weight.data.copy_(theirs.weight[s].T)
    for ours, theirs in zip([m for m in alone if isinstance(m, SyncBatchNorm)], stack.norms, strict=False):
        if ours.affine:
            ours.weight.data.copy_(theirs.weight.view(-1, ours.num_features)[s])
            ours.bias.data.copy_(theirs.bias.view(-1, ours.num_features)[s])
    return alone


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("changes", [{}, {"ratio": 0.0}])
def test_at_ratio_0_encoder_and_projector_learn_as_in_the_baseline(base: str, changes: dict[str, float]) -> None:
    method = sdssl(base, **changes)
    step = 5 if changes else 0
    plain = baseline(method, base)
    loss, logs = method(double_batch(), Progress(step, STEPS, 5))
    plain_loss, _ = plain(double_batch(), Progress(step, STEPS, 5))
    torch.testing.assert_close(logs["loss_out"], plain_loss.detach())
    ours, theirs = gradients(loss, method), gradients(plain_loss, plain)
    for name, _ in method.backbone.named_parameters():
        if f"backbone.{name}" in ours:
            torch.testing.assert_close(ours[f"backbone.{name}"], theirs[f"student.backbone.{name}"])
    projector = [gradient for name, gradient in ours.items() if name.startswith("projector.linears")]
    linears = [
        gradient for name, gradient in theirs.items() if name.startswith("student.projector") and gradient.dim() > 1
    ]
    for ours_, theirs_ in zip(projector, linears, strict=True):
        torch.testing.assert_close(ours_[0], theirs_.T)
    if base != "simclr":  # the last block's predictor is in L_out and in L_det
        torch.testing.assert_close(ours["predictors.linears.0.weight"][-1], 2 * theirs["predictor.0.weight"].T)


# --- the teacher -----------------------------------------------------------------------------------------------------


def values(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("base", WITH_TEACHER)
@pytest.mark.parametrize(
    ("changes", "momentum"),
    [
        ({}, 0.95),
        ({"momentum_end": None}, 0.9),
        ({"momentum_end": 0.8}, 0.85),
        ({"teacher_update": "before_keys"}, 0.95),
    ],
)
def test_teacher_moves_once_a_step_and_when_it_should(base: str, changes: dict[str, Any], momentum: float) -> None:
    method = sdssl(base, momentum=0.9, **changes)
    assert isinstance(method, SDSSLWithTeacher)
    pairs = [(method.backbone, method.teacher_backbone), (method.projector, method.teacher_projector)]
    before = [values(teacher) for _, teacher in pairs]
    half_way = Progress(5, STEPS, 5)

    def assert_moved(momentum: float) -> None:
        for (student, teacher), old in zip(pairs, before, strict=True):
            for now, was, new in zip(teacher.parameters(), old, student.parameters(), strict=True):
                torch.testing.assert_close(now, momentum * was + (1 - momentum) * new)

    early = momentum if "teacher_update" in changes else 1.0
    terms = terms_with_teacher(method, double_batch())
    _, logs = method(double_batch(), half_way)
    assert_moved(early)
    assert torch.allclose(logs["loss_out"], terms["out"]) == (early == 1.0), "targets are those of the moved teacher"
    method(double_batch(), Progress(5, STEPS, 5, part=1))
    assert_moved(early)
    method.after_step(half_way)
    assert_moved(momentum)


@pytest.mark.parametrize("base", WITH_TEACHER)
def test_teacher_keeps_running_statistics_of_its_own(base: str) -> None:
    method = build(f"sdssl_{base}")
    take_steps(method, run_config(f"sdssl_{base}"), 2)
    assert isinstance(method, SDSSLWithTeacher)
    for ours, theirs in zip(method.projector.norms, method.teacher_projector.norms, strict=True):
        if isinstance(ours, SyncBatchNorm):
            assert theirs.running_mean.any()
            assert not torch.equal(ours.running_mean, theirs.running_mean)


# --- networks --------------------------------------------------------------------------------------------------------


def shapes(stack: StackedMLP) -> list[tuple[int, ...]]:
    return [tuple(linear.weight.shape) for linear in stack.linears]


@pytest.mark.parametrize("base", BASES)
def test_heads_have_the_papers_shapes(base: str) -> None:
    with torch.device("meta"):
        method = build(options.SDSSL(base=base), options.ViTBase(patch_size=4))
    assert isinstance(method, SDSSL)
    assert shapes(method.intermediate_projectors) == [(11, 768, 2048), (11, 2048, 2048), (11, 2048, 256)]
    assert shapes(method.projector) == [(1, 768, 4096), (1, 4096, 4096), (1, 4096, 256)]
    parts = {name for name, _ in method.named_children()}
    if base == "simclr":
        assert parts == {"backbone", "intermediate_projectors", "projector"}
    else:
        assert isinstance(method, SDSSLWithTeacher)
        assert shapes(method.predictors) == [(12, 256, 4096), (12, 4096, 256)]
        assert shapes(method.teacher_projector) == shapes(method.projector)
        assert "teacher_intermediate_projectors" not in parts


@pytest.mark.parametrize(
    ("base", "last_norm", "intermediate", "last"),
    [
        ("moco_v3", None, True, True),
        ("byol", None, False, False),
        ("simclr", None, True, True),
        ("moco_v3", "intermediate", True, False),
        ("byol", "all", True, True),
        ("simclr", "none", False, False),
    ],
)
def test_heads_end_in_a_norm_without_scale_where_asked(
    base: str, last_norm: str | None, intermediate: bool, last: bool
) -> None:
    method = sdssl(base, **({} if last_norm is None else {"last_norm": last_norm}))
    ends = {"intermediate_projectors": intermediate, "projector": last}
    if base != "simclr":
        ends |= {"predictors": last, "teacher_projector": last}
    for name, has_norm in ends.items():
        stack = method.get_submodule(name)
        assert isinstance(stack, StackedMLP)
        norm = stack.norms[-1]
        assert isinstance(norm, SyncBatchNorm) == has_norm, name
        assert not list(norm.parameters()), name


@pytest.mark.parametrize("base", BASES)
def test_evaluated_networks_are_the_papers(base: str) -> None:
    method = sdssl(base).eval()
    images = double_batch().views[0]
    encoders, embedders = method.encoders(), method.embedders()
    assert list(encoders) == list(embedders) == (["student"] if base == "simclr" else ["teacher", "student"])
    assert encoders["student"] is method.backbone
    for name, embedder in embedders.items():
        projector = method.get_submodule("teacher_projector" if name == "teacher" else "projector")
        torch.testing.assert_close(embedder(images), projector(encoders[name](images)[None])[0])
    assert len(method.state_dict()) == len(sdssl(base).state_dict()), "embedders are no part of the state"


def test_simclrs_heads_see_both_views_together_and_the_others_one_at_a_time() -> None:
    for base, sizes in (("simclr", [16]), ("moco_v3", [8, 8]), ("byol", [8, 8])):
        method, seen = sdssl(base), []
        method.projector.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[1]))
        method(double_batch(), Progress(0, STEPS, 5))
        assert seen == sizes, base


# --- within DistributedDataParallel ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_checkpointing_changes_no_bit_within_ddp(base: str, autocast: bool) -> None:
    plain, checkpointed = (build(f"sdssl_{base}", VIT.model_copy(update={"layer_norm": "per_layer"})) for _ in range(2))
    assert isinstance(checkpointed, SDSSL)
    checkpointed.backbone.use_gradient_checkpointing()
    model = DistributedDataParallel(checkpointed, forward_sync_buffers=False)
    for step in (0, 5):
        for network in (plain, model):
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                network(batch(seed=step), Progress(step, STEPS, 5))[0].backward()
        for (name, ours), right in zip(checkpointed.named_parameters(), plain.parameters(), strict=True):
            assert (ours.grad is None) == (right.grad is None) == (not ours.requires_grad), name
            assert ours.grad is None or torch.equal(ours.grad, right.grad), name
