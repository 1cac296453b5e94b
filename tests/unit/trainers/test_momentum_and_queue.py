"""The teacher's moving average, and the queue of its embeddings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.key_queue import KeyQueue
from trainers.momentum import make_teacher, update_teacher


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_teacher_starts_as_an_untrained_copy() -> None:
    student = network()
    teacher = make_teacher(student)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())
    student[0].weight.data.zero_()
    assert teacher[0].weight.any()


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.999, 1.0])
def test_parameters_are_averaged(momentum: float) -> None:
    student = network()
    teacher = make_teacher(student)
    for parameter in student.parameters():
        parameter.data.normal_()
    expected = [
        momentum * old.double() + (1 - momentum) * new.double()
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    update_teacher(teacher, student, momentum)
    for value, right in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(value.double(), right, rtol=0, atol=1e-6)


def test_batch_statistics_stay_the_teachers_own() -> None:
    student = network()
    teacher = make_teacher(student)
    student(torch.randn(8, 3) + 5)
    update_teacher(teacher, student, 0.0)
    assert student[1].running_mean.any()
    assert not teacher[1].running_mean.any()


def test_rows_start_as_unit_vectors() -> None:
    torch.manual_seed(0)
    torch.testing.assert_close(KeyQueue(16, 40).rows.norm(dim=1), torch.ones(40))


def test_columns_start_gives_the_authors_short_rows() -> None:
    torch.manual_seed(0)
    queue = KeyQueue(512, 2048, "columns")
    torch.testing.assert_close(queue.rows.norm(dim=0), torch.ones(512))
    assert queue.rows.norm(dim=1).mean().item() == pytest.approx(math.sqrt(512 / 2048), rel=0.01)


def test_oldest_rows_are_overwritten_in_order_and_around_the_end() -> None:
    queue = KeyQueue(2, 6)
    batches = [F.normalize(torch.randn(2, 2), dim=1) for _ in range(4)]
    for keys in batches:
        queue.enqueue(keys)
    assert torch.equal(queue.rows, torch.cat([batches[3], batches[1], batches[2]]))
    assert queue.pointer.item() == 2


def test_queue_goes_into_a_checkpoint_with_its_pointer() -> None:
    queue, resumed = KeyQueue(2, 6), KeyQueue(2, 6)
    queue.enqueue(torch.ones(2, 2))
    resumed.load_state_dict(queue.state_dict())
    for q in (queue, resumed):
        q.enqueue(torch.full((2, 2), 2.0))
    assert torch.equal(queue.rows, resumed.rows)
    assert resumed.pointer.item() == 4


def test_a_batch_that_does_not_divide_the_queue_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="6 rows cannot take batches of 4"):
        KeyQueue(2, 6).enqueue(torch.ones(4, 2))


def test_staged_keys_enter_together_in_their_order() -> None:
    queue = KeyQueue(2, 6)
    before = queue.rows.clone()
    batches = [F.normalize(torch.randn(2, 2), dim=1) for _ in range(3)]
    queue.stage(batches[0], batches[1])
    queue.stage(batches[2])
    assert torch.equal(queue.rows, before)
    queue.enqueue_staged()
    assert torch.equal(queue.rows, torch.cat(batches))
    queue.enqueue_staged()  # nothing is left to enter
    assert torch.equal(queue.rows, torch.cat(batches))
    assert queue.pointer.item() == 0
