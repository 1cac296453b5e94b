"""Losses of the three methods against slow ones written from the equations, and what a step does around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config as options
from trainers.batch_norm import GroupBatchNorm
from trainers.losses import contrast_layers
from trainers.methods import build_method
from trainers.methods.base import Method, Progress
from trainers.methods.isd import ISD, similarity_divergence
from trainers.methods.moco import MoCoV2, info_nce
from trainers.optimizers import build_optimizer

BATCH = 8
VIT = options.ViTTiny(width=16, heads=2, depth=3)
RESNET = options.ResNet18(width=4)
SMALL_HEADS: dict[str, Any] = {
    "projection_dim": 6,
    "hidden_dim": 10,
    "intermediate_hidden_dim": 8,
    "predictor_hidden_dim": 12,
}
METHODS: dict[str, options.Method] = {
    "moco": options.MoCoV2(queue_size=16, bn_group_size=4, projection_dim=8),
    "moco_symmetric": options.MoCoV2(queue_size=16, bn_group_size=4, projection_dim=8, symmetric=True),
    "isd": options.ISD(queue_size=16, bn_group_size=4),
    "isd_plus": options.ISD(queue_size=16, bn_group_size=4, projector=True, teacher_temperature=0.01),
    "sdssl": options.SDSSL(**SMALL_HEADS),
}


def run_config(
    method: options.Method, backbone: options.Backbone | None = None, batch_size: int = BATCH, seed: int = 0
) -> options.RunConfig:
    backbone = backbone or (VIT if isinstance(method, options.SDSSL) else RESNET)
    train = options.Train(batch_size=batch_size, learning_rate=0.05)
    return options.RunConfig(method=method, backbone=backbone, train=train, seed=seed)


def views(batch: int = BATCH, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, 8, 8, generator=generator)
    return images, images + 0.3 * torch.randn(images.shape, generator=generator)


def unit(rows: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(rows, dim, dtype=torch.float64), dim=1)


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return -(scores[right].exp() / torch.stack([score.exp() for score in scores]).sum()).log()


# --- losses ----------------------------------------------------------------------------------------------------------


def test_info_nce_is_its_equation() -> None:
    torch.manual_seed(0)
    query, key, negatives = unit(5, 4).requires_grad_(), unit(5, 4), unit(9, 4)
    losses, correct = [], []
    for q, k in zip(query, key, strict=True):
        scores = [q @ k / 0.2, *(q @ n / 0.2 for n in negatives)]
        losses.append(cross_entropy(scores, 0))
        correct.append(all(scores[0] > score for score in scores[1:]))
    expected = torch.stack(losses).mean()
    loss, accuracy = info_nce(query, key, negatives, 0.2)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(expected, query))
    assert accuracy.item() == pytest.approx(sum(correct) / 5)
    assert 0 < sum(correct) < 5


def test_info_nce_of_random_vectors_is_the_logarithm_of_the_number_of_candidates() -> None:
    torch.manual_seed(0)
    loss, _ = info_nce(unit(64, 32), unit(64, 32), unit(255, 32), temperature=100.0)
    assert loss.item() == pytest.approx(math.log(256), abs=1e-3)


def test_similarity_divergence_is_its_equation() -> None:
    torch.manual_seed(0)
    query, key, anchors = unit(5, 4).requires_grad_(), unit(5, 4).requires_grad_(), unit(9, 4)
    losses, entropies = [], []
    for q, k in zip(query, key, strict=True):
        p = [(k @ a / 0.1).exp() for a in anchors]
        s = [(q @ a / 0.3).exp() for a in anchors]
        p = [value.detach() / sum(p).detach() for value in p]
        s = [value / sum(s) for value in s]
        losses.append(sum(p_j * (p_j.log() - s_j.log()) for p_j, s_j in zip(p, s, strict=True)))
        entropies.append(-sum(p_j * p_j.log() for p_j in p))
    expected = torch.stack(losses).mean()
    loss, entropy = similarity_divergence(query, key, anchors, student_temperature=0.3, teacher_temperature=0.1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(entropy, torch.stack(entropies).mean())
    torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(expected, query))
    assert not entropy.requires_grad
    loss, _ = similarity_divergence(query, key, anchors, student_temperature=0.3, teacher_temperature=0.1)
    assert torch.autograd.grad(loss, [query, key], allow_unused=True)[1] is None


def test_equal_networks_and_temperatures_have_no_divergence() -> None:
    torch.manual_seed(0)
    rows, anchors = unit(5, 4), unit(9, 4)
    same, _ = similarity_divergence(rows, rows, anchors, student_temperature=0.02, teacher_temperature=0.02)
    other, _ = similarity_divergence(rows, rows, anchors, student_temperature=0.1, teacher_temperature=0.02)
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert other.item() > 0.1


def test_target_over_orthonormal_anchors_is_the_softmax_of_the_coordinates() -> None:
    torch.manual_seed(0)
    key = unit(3, 6)
    p = (key / 0.5).softmax(1)
    _, entropy = similarity_divergence(
        key, key, torch.eye(6, dtype=torch.float64), student_temperature=1.0, teacher_temperature=0.5
    )
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1).mean())


def test_short_rows_make_the_target_nearly_uniform() -> None:
    """The authors' queue initialisation: at D 512 and T 0.02 the target's entropy is almost ln K."""
    torch.manual_seed(0)
    key = unit(4, 512)
    noise = torch.randn(16384, 512, dtype=torch.float64)

    def entropy(anchors: Tensor) -> float:
        return similarity_divergence(key, key, anchors, student_temperature=0.02, teacher_temperature=0.02)[1].item()

    short = F.normalize(noise, dim=0) * math.sqrt(16384 / 128000)  # as long as in a queue of 128000
    assert math.log(16384) - entropy(short) < 0.02
    assert math.log(16384) - entropy(F.normalize(noise, dim=1)) > 1.5


def test_layer_losses_are_moco_v3s() -> None:
    torch.manual_seed(0)
    predictions = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    targets = unit(5, 4)
    expected, correct = [], []
    for layer in range(3):
        total = torch.zeros((), dtype=torch.float64)
        for b in range(5):
            scores = [predictions[layer, b] / predictions[layer, b].norm() @ y / 0.2 for y in targets]
            total = total + 2 * 0.2 * cross_entropy(scores, b) / 5
            if layer == 2:
                correct.append(max(range(5), key=lambda i: scores[i].item()) == b)
        expected.append(total)
    losses, accuracy = contrast_layers(predictions, targets, 0.2)
    torch.testing.assert_close(losses, torch.stack(expected))
    assert accuracy.item() == pytest.approx(sum(correct) / 5)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((weights * losses).sum(), predictions),
        torch.autograd.grad((weights * torch.stack(expected)).sum(), predictions),
    )


@pytest.mark.parametrize("loss", [info_nce, similarity_divergence])
def test_similarities_keep_float32_under_autocast(loss: Any) -> None:
    torch.manual_seed(0)
    query, key, anchors = unit(4, 64).float(), unit(4, 64).float(), unit(32, 64).float()
    temperatures = (
        {"temperature": 0.02} if loss is info_nce else {"student_temperature": 0.02, "teacher_temperature": 0.02}
    )
    expected = loss(query, key, anchors, **temperatures)
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ key.T).dtype == torch.bfloat16
        assert torch.equal(loss(query, key, anchors, **temperatures)[0], expected[0])


# --- MoCo and ISD as a whole -----------------------------------------------------------------------------------------


def test_moco_head_widths() -> None:
    method = build_method(run_config(options.MoCoV2(queue_size=16, bn_group_size=4), options.ResNet18()))
    assert isinstance(method, MoCoV2)
    linears = [m for m in method.student.projector.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features, m.bias is not None) for m in linears] == [
        (512, 512, True),
        (512, 128, True),
    ]
    assert method.queue.rows.shape == (16, 128)


@pytest.mark.parametrize(
    ("projector", "widths", "queue_width"),
    [
        (False, [("predictor.0", 512, 512, False), ("predictor.3", 512, 512, True)], 512),
        (
            True,
            [
                ("student.projector.0", 512, 1024, True),
                ("student.projector.3", 1024, 128, True),
                ("predictor.0", 128, 1024, True),
                ("predictor.3", 1024, 128, True),
            ],
            128,
        ),
    ],
)
def test_isd_head_widths(projector: bool, widths: list[tuple[str, int, int, bool]], queue_width: int) -> None:
    config = run_config(options.ISD(queue_size=16, bn_group_size=4, projector=projector), options.ResNet18())
    method = build_method(config)
    assert isinstance(method, ISD)
    linears = [
        (name, m.in_features, m.out_features, m.bias is not None)
        for name, m in method.named_modules()
        if isinstance(m, nn.Linear) and not name.startswith("teacher")
    ]
    assert linears == widths
    assert method.queue.rows.shape == (16, queue_width)


def test_isd_with_identical_networks_and_views_has_no_loss() -> None:
    # A vision transformer, because batch statistics of student and shuffled teacher differ.
    method = build_method(run_config(METHODS["isd"], VIT))
    assert isinstance(method, ISD)
    method.predictor = nn.Identity()
    first, second = views()
    assert method(first, first, Progress(0, 10, 5))[0].item() == pytest.approx(0, abs=1e-5)
    assert method(first, second, Progress(0, 10, 5))[0].item() > 1e-3


@pytest.mark.parametrize("name", ["moco", "isd"])
def test_a_batchs_own_keys_are_not_among_its_anchors(name: str) -> None:
    """A queue of two rows and a batch of two: enqueuing first would leave nothing but the own keys."""
    method_options = METHODS[name].model_copy(update={"queue_size": 2, "bn_group_size": 2})
    method = build_method(run_config(method_options, VIT, batch_size=2))
    assert isinstance(method, (MoCoV2, ISD))
    before = method.queue.rows.clone()
    first, second = views(2)
    with torch.no_grad():
        keys = F.normalize(method.teacher(second), dim=1)
        student = method.student(first)
        query = F.normalize(method.predictor(student) if isinstance(method, ISD) else student, dim=1)
        if isinstance(method, ISD):
            expected, _ = similarity_divergence(query, keys, before, student_temperature=0.02, teacher_temperature=0.02)
        else:
            expected, _ = info_nce(query, keys, before, method.temperature)
    progress = Progress(0, 10, 5)
    loss, _ = method(first, second, progress)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(method.queue.rows, before)
    loss.backward()  # the rows that the graph holds are still the ones that the loss was computed with
    method.after_step(progress)
    torch.testing.assert_close(method.queue.rows, keys, rtol=1e-4, atol=1e-5)


def test_symmetric_moco_sums_both_directions_and_keeps_both_keys() -> None:
    one_way = build_method(run_config(METHODS["moco"], VIT))
    both_ways = build_method(run_config(METHODS["moco_symmetric"], VIT))
    assert isinstance(one_way, MoCoV2)
    assert isinstance(both_ways, MoCoV2)
    first, second = views()
    progress = Progress(0, 10, 5)
    directions = [one_way(a, b, progress)[0].item() for a, b in ((first, second), (second, first))]
    loss, _ = both_ways(first, second, progress)
    assert loss.item() == pytest.approx(sum(directions), rel=1e-5)
    both_ways.after_step(progress)
    with torch.no_grad():
        expected = F.normalize(torch.cat([both_ways.teacher(first), both_ways.teacher(second)]), dim=1)
    torch.testing.assert_close(both_ways.queue.rows, expected, rtol=1e-4, atol=1e-5)
    assert both_ways.queue.pointer.item() == 0


@pytest.mark.parametrize("name", ["moco", "isd"])
def test_teacher_moves_before_the_keys_are_embedded(name: str) -> None:
    method = build_method(run_config(METHODS[name].model_copy(update={"momentum": 0.5}), VIT))
    assert isinstance(method, (MoCoV2, ISD))
    old = [p.clone() for p in method.teacher.parameters()]
    for parameter in method.student.parameters():
        parameter.data.add_(0.01)
    progress = Progress(0, 10, 5)
    first, second = views()
    method(first, second, progress)
    for teacher, was, student in zip(method.teacher.parameters(), old, method.student.parameters(), strict=True):
        torch.testing.assert_close(teacher, (was + student) / 2)
    method.after_step(progress)
    with torch.no_grad():
        keys = F.normalize(method.teacher(second), dim=1)
    torch.testing.assert_close(method.queue.rows[:BATCH], keys, rtol=1e-4, atol=1e-5)


def test_keys_share_their_statistics_with_other_samples_than_queries_do() -> None:
    """What shuffling is for. Sample i of the queries is in group i mod 2; for the keys, another company each step."""
    method = build_method(run_config(METHODS["moco"]))
    assert isinstance(method, MoCoV2)
    groups_of_step = []
    for step in range(4):
        seen: list[Tensor] = []
        hook = method.teacher.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0][:, 0, 0, 0])
        )
        numbered = torch.arange(float(BATCH)).view(-1, 1, 1, 1).expand(BATCH, 3, 8, 8)
        method.embed_keys(numbered, Progress(step, 10, 5))
        hook.remove()
        order = [int(number) for number in seen[0]]
        assert sorted(order) == list(range(BATCH))
        groups_of_step.append({frozenset(order[0::2]), frozenset(order[1::2])})
    queries = {frozenset(range(0, BATCH, 2)), frozenset(range(1, BATCH, 2))}
    assert queries not in groups_of_step
    assert len({frozenset(groups) for groups in groups_of_step}) > 1


# --- every method ----------------------------------------------------------------------------------------------------


def take_steps(method: Method, config: options.RunConfig, num_steps: int) -> list[dict[str, Tensor]]:
    optimizer = build_optimizer(method.parameters(), config.train)
    logged = []
    for step in range(num_steps):
        progress = Progress(step, 10, 5)
        optimizer.zero_grad()
        loss, logs = method(*views(seed=step), progress)
        loss.backward()
        optimizer.step()
        method.after_step(progress)
        logged.append({"loss": loss.detach(), **logs})
    return logged


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_parameter_has_a_gradient_and_no_other_has(name: str) -> None:
    """DistributedDataParallel waits for ever for a gradient that does not come."""
    config = run_config(METHODS[name])
    method = build_method(config)
    take_steps(method, config, 1)
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.requires_grad != ("teacher" in parameter_name or "patch_projection" in parameter_name)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_the_student_and_the_logs_are_plain_numbers(name: str) -> None:
    config = run_config(METHODS[name])
    method = build_method(config)
    encoders = method.encoders()
    before = {role: [p.clone() for p in network.parameters()] for role, network in encoders.items()}
    for logs in take_steps(method, config, 2):
        for key, value in logs.items():
            assert value.shape == (), key
            assert value.isfinite(), key
            assert not value.requires_grad, key
    for role, network in encoders.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[role], network.parameters(), strict=True)), role


@pytest.mark.parametrize("name", ["moco", "moco_symmetric", "isd", "isd_plus"])
def test_queue_holds_unit_rows_and_the_teacher_its_own_statistics(name: str) -> None:
    config = run_config(METHODS[name])
    method = build_method(config)
    take_steps(method, config, 3)
    assert isinstance(method, (MoCoV2, ISD))
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(16))
    student, teacher = ([m for m in n.modules() if isinstance(m, GroupBatchNorm)] for n in method.encoders().values())
    assert len(student) == len(teacher) == 20
    for ours, theirs in zip(student, teacher, strict=True):
        assert theirs.running_mean.any()
        assert not torch.equal(ours.running_mean, theirs.running_mean)


@pytest.mark.parametrize("name", METHODS)
def test_state_is_complete_and_the_next_steps_are_the_same_bit_for_bit(name: str) -> None:
    config = run_config(METHODS[name])
    straight = build_method(config)
    take_steps(straight, config, 2)
    resumed = build_method(run_config(METHODS[name], seed=1))
    resumed.load_state_dict(straight.state_dict())
    # The seed that draws the shuffles comes with the configuration, not with the weights.
    if isinstance(resumed, (MoCoV2, ISD)):
        resumed.seed = config.seed
    torch.manual_seed(99)
    again, resumed_logs = take_steps(straight, config, 2), take_steps(resumed, config, 2)
    assert [{k: v.item() for k, v in logs.items()} for logs in again] == [
        {k: v.item() for k, v in logs.items()} for logs in resumed_logs
    ]


@pytest.mark.parametrize("name", METHODS)
def test_initial_state_depends_on_the_runs_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = build_method(run_config(METHODS[name])).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build_method(run_config(METHODS[name])).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build_method(run_config(METHODS[name], seed=1)).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "roles"),
    [("moco", ["student", "teacher"]), ("isd", ["student", "teacher"]), ("sdssl", ["teacher", "student"])],
)
def test_encoders_give_representations_and_the_papers_comes_first(name: str, roles: list[str]) -> None:
    encoders = build_method(run_config(METHODS[name])).encoders()
    assert list(encoders) == roles
    for encoder in encoders.values():
        out = encoder.eval()(torch.randn(3, 3, 8, 8))
        assert out.shape == (3, 16 if name == "sdssl" else 32)


@pytest.mark.parametrize("name", METHODS)
def test_networks_run_under_autocast_with_losses_in_float32(name: str) -> None:
    method = build_method(run_config(METHODS[name]))
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = method(*views(), Progress(1, 10, 5))
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in logs.values())
    loss.backward()
    method.after_step(Progress(1, 10, 5))
