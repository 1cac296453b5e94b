"""What methods with a momentum teacher do around their loss: when the teacher moves, and how keys are embedded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tiny_methods import BATCH, METHODS, VIT, batch, build, run_config, take_steps
from trainers import config as options
from trainers.batch import Batch
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher

TEACHERS = ["moco_v1", "moco_v2_symmetric", "moco_v3", "isd", "isd_plus", "byol", "byol_asym"]


def student_teacher(name: str, backbone: options.Backbone | None = None, **update: Any) -> StudentTeacher:
    batch_size = update.pop("batch_size", BATCH)
    method = build(METHODS[name].model_copy(update=update), backbone, batch_size=batch_size)
    assert isinstance(method, StudentTeacher)
    return method


def values(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def assert_moved(teacher: nn.Module, before: list[Tensor], student: nn.Module, momentum: float) -> None:
    for now, was, new in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * was + (1 - momentum) * new)


# --- the teacher's average -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_starts_as_the_student(name: str) -> None:
    method = student_teacher(name)
    assert all(torch.equal(a, b) for a, b in zip(values(method.teacher), values(method.student), strict=True))


def test_byols_teacher_may_start_with_weights_of_its_own() -> None:
    method, copied = student_teacher("byol", teacher_init="independent"), student_teacher("byol")
    kernels = [(a, b) for a, b in zip(values(method.teacher), values(method.student), strict=True) if a.dim() > 1]
    assert not any(torch.equal(a, b) for a, b in kernels)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(values(method.student), values(copied.student), strict=True))


@pytest.mark.parametrize(
    ("name", "when"),
    [*((name, "before_keys") for name in TEACHERS), ("moco_v3", "after_step"), ("byol", "after_step")],
)
def test_teacher_moves_once_a_step_and_when_it_should(name: str, when: str) -> None:
    option = {"teacher_update": when} if name in ("moco_v3", "byol") else {}
    method = student_teacher(name, VIT, momentum=0.5, momentum_end=None, **option)
    for parameter in method.student.parameters():
        parameter.data.add_(0.01)
    before, progress = values(method.teacher), Progress(0, 10, 5)
    method(batch(), progress)
    assert_moved(method.teacher, before, method.student, 0.5 if when == "before_keys" else 1.0)
    method(batch(seed=1), Progress(0, 10, 5, part=1))
    assert_moved(method.teacher, before, method.student, 0.5 if when == "before_keys" else 1.0)
    method.after_step(progress)
    assert_moved(method.teacher, before, method.student, 0.5)


@pytest.mark.parametrize(
    ("name", "momenta"),
    [
        ("moco_v2", [0.999, 0.999, 0.999]),
        ("isd", [0.999, 0.999, 0.999]),
        ("byol_asym", [0.99, 0.99, 0.99]),
        ("moco_v3", [0.99, 0.991464, 0.995]),  # methods.md 1.9, at 0, a quarter and half of the training
        ("byol", [0.996, 0.996586, 0.998]),
    ],
)
def test_momentum_follows_the_papers_schedule(name: str, momenta: list[float]) -> None:
    for quarter, momentum in enumerate(momenta):
        method = student_teacher(name, VIT).double()
        for parameter in method.student.parameters():
            parameter.data.add_(1.0)
        before, progress = values(method.teacher), Progress(25 * quarter, 100, 10)
        method(batch(dtype=torch.float64), progress)
        method.after_step(progress)
        kept = 1 - (next(method.teacher.parameters()) - before[0])  # of a distance of 1
        torch.testing.assert_close(kept.detach(), torch.full_like(kept, momentum), rtol=0, atol=1e-6)


def test_momentum_may_end_below_one() -> None:
    method = student_teacher("moco_v2", VIT, momentum=0.99, momentum_end=0.999).double()  # solo-learn's MoCo v2+
    for parameter in method.student.parameters():
        parameter.data.add_(1.0)
    before = values(method.teacher)
    method(batch(dtype=torch.float64), Progress(5, 10, 5))
    assert_moved(method.teacher, before, method.student, 0.9945)


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_has_running_statistics_of_its_own(name: str) -> None:
    method = student_teacher(name)
    take_steps(method, run_config(name), 2)
    pairs = [
        (ours, theirs)
        for (key, ours), theirs in zip(method.student.named_buffers(), method.teacher.buffers(), strict=True)
        if key.endswith("running_mean")
    ]
    assert len(pairs) >= 20
    for ours, theirs in pairs:
        assert theirs.any()
        assert not torch.equal(ours, theirs)


# --- keys ------------------------------------------------------------------------------------------------------------

NUMBERED = torch.arange(float(BATCH)).view(-1, 1, 1, 1).expand(BATCH, 3, 8, 8)


def orders_of_keys(method: StudentTeacher, *embeddings: tuple[Progress, int]) -> list[list[int]]:
    """In which order the teacher gets the images of a batch, at several moments."""
    seen: list[list[int]] = []
    with method.teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 0, 0, 0].int().tolist())):
        for progress, view in embeddings:
            method.embed_keys(NUMBERED, progress, view)
    return seen


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "isd", "byol_asym"])
def test_keys_share_their_statistics_with_other_samples_than_queries_do(name: str) -> None:
    """What shuffling is for. Sample i of the queries is in group i mod 2; for the keys, another company each step."""
    queries = {frozenset(range(0, BATCH, 2)), frozenset(range(1, BATCH, 2))}
    companies = []
    for order in orders_of_keys(student_teacher(name), *((Progress(step, 10, 5), 0) for step in range(4))):
        assert sorted(order) == list(range(BATCH))
        companies.append({frozenset(order[0::2]), frozenset(order[1::2])})
    assert queries not in companies
    assert len({frozenset(groups) for groups in companies}) > 1


@pytest.mark.parametrize("name", TEACHERS)
def test_a_key_depends_on_its_group_and_shuffling_changes_the_group(name: str) -> None:
    """Image 2 is in the group of query 0. Without the shuffle it would be in the group of key 0 too: the leak."""
    grouped = hasattr(METHODS[name], "shuffle_keys")
    for shuffle in [True, False] if grouped else [False]:
        method = student_teacher(name, **({"shuffle_keys": shuffle, "bn_group_size": 2} if grouped else {})).double()
        (order,) = orders_of_keys(method.float(), (Progress(0, 10, 5), 0))
        groups = [{order[i], order[i + 4]} for i in range(4)] if grouped else [set(range(BATCH))]
        company = next(group for group in groups if 0 in group)
        images = batch(dtype=torch.float64).views[0]
        keys = method.double().embed_keys(images, Progress(0, 10, 5))
        for other in range(1, BATCH):
            changed = images.clone()
            changed[other] += 1
            moved = method.embed_keys(changed, Progress(0, 10, 5))[0] - keys[0]
            assert (moved.abs().max() > 1e-9) == (other in company)


def test_each_view_step_and_part_draws_a_shuffle_of_its_own() -> None:
    at = Progress(0, 10, 5)
    first, again, view, part, step = orders_of_keys(
        student_teacher("moco_v2"), (at, 0), (at, 0), (at, 1), (Progress(0, 10, 5, part=1), 0), (Progress(1, 10, 5), 0)
    )
    assert first == again
    assert len({tuple(order) for order in (first, view, part, step)}) == 4


@pytest.mark.parametrize("name", ["moco_v3", "byol"])
def test_methods_with_statistics_over_the_batch_keep_its_order(name: str) -> None:
    assert orders_of_keys(student_teacher(name), (Progress(3, 10, 5), 0)) == [list(range(BATCH))]


# --- batches in parts ------------------------------------------------------------------------------------------------


def one_step(method: StudentTeacher, parts: int, progress: Progress) -> Tensor:
    """One step on a batch of 16 that is cut as the loop cuts it; the mean of the parts' losses."""
    whole, losses = batch(16, dtype=torch.float64), []
    for part in range(parts):
        rows = slice(part * 16 // parts, (part + 1) * 16 // parts)
        piece = Batch(tuple(view[rows] for view in whole.views), whole.labels[rows])
        loss, _ = method(piece, Progress(progress.step, progress.total_steps, progress.steps_per_epoch, part))
        (loss / parts).backward()
        losses.append(loss.detach())
    method.after_step(progress)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["moco_v2_symmetric", "isd"])
def test_in_networks_without_norms_a_step_in_parts_is_the_step(name: str) -> None:
    """Then only the order of the queue's rows can tell the parts from the whole: both views of one after the other."""
    whole, parts = (student_teacher(name, VIT, momentum=0.5, queue_size=32, batch_size=16).double() for _ in range(2))
    for method in (whole, parts):
        if name == "isd":
            method.predictor = nn.Identity()  # it has a norm
        for parameter in method.student.parameters():
            parameter.data.add_(0.01)
    progress = Progress(3, 10, 5)
    torch.testing.assert_close(one_step(parts, 4, progress), one_step(whole, 1, progress))
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad)
    rows = parts.queue.rows
    if name == "moco_v2_symmetric":
        rows = rows.view(4, 2, 4, -1).transpose(0, 1).flatten(0, 2)  # parts, views, images: views come first
    torch.testing.assert_close(rows, whole.queue.rows)
    assert torch.equal(parts.queue.pointer, whole.queue.pointer)


# --- MoCo and ISD: the queue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "moco_v2_symmetric", "isd", "isd_plus"])
def test_queue_holds_unit_rows(name: str) -> None:
    method = student_teacher(name)
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(16))
    take_steps(method, run_config(name), 3)
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "moco_v2_symmetric", "isd"])
def test_keys_of_the_moved_teacher_enter_the_queue_after_the_step(name: str) -> None:
    """In a network without norms, where a key does not depend on its company."""
    method = student_teacher(name, VIT, momentum=0.5)
    for parameter in method.student.parameters():
        parameter.data.add_(0.01)
    before, progress, images = method.queue.rows.clone(), Progress(0, 10, 5), batch()
    loss, _ = method(images, progress)
    assert torch.equal(method.queue.rows, before)
    loss.backward()  # the rows that the graph holds are still the ones that the loss was computed with
    method.after_step(progress)
    first, second = (F.normalize(method.teacher(view), dim=1).detach() for view in images.views)
    expected = torch.cat([first, second]) if name == "moco_v2_symmetric" else torch.cat([second, before[BATCH:]])
    torch.testing.assert_close(method.queue.rows, expected, rtol=1e-4, atol=1e-5)
    assert method.queue.pointer.item() == (0 if name == "moco_v2_symmetric" else BATCH)
