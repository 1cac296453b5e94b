"""Schedules against values worked out by hand from the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainers.config import Cosine, Step, Train
from trainers.schedule import cosine_momentum, cosine_ramp, learning_rate


def train(schedule: Cosine | Step, epochs: int = 4, peak: float = 0.8, **options: Any) -> Train:
    return Train(epochs=epochs, learning_rate=peak, schedule=schedule, **options)


def rates(train: Train, steps_per_epoch: int) -> list[float]:
    return [
        learning_rate(train, step=step, steps_per_epoch=steps_per_epoch)
        for step in range(train.epochs * steps_per_epoch)
    ]


def test_cosine_per_step_starts_at_the_peak_and_ends_above_zero() -> None:
    expected = [0.4 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert rates(train(Cosine()), 2) == pytest.approx(expected)
    assert expected[0] == 0.8
    assert expected[-1] > 0


def test_cosine_per_epoch_is_a_staircase() -> None:
    # e = 0, 1, 2, 3 of 4: cos 0, cos 45, cos 90, cos 135 degrees
    stairs = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    assert rates(train(Cosine(per="epoch")), 3) == pytest.approx([rate for rate in stairs for _ in range(3)])


def test_staircase_changes_exactly_at_the_epoch_whatever_its_length() -> None:
    schedule = train(Cosine(per="epoch"), epochs=30)
    for steps_per_epoch in (1, 3, 7, 49, 195, 5004):
        for epoch in range(1, 30):
            first = learning_rate(schedule, step=epoch * steps_per_epoch, steps_per_epoch=steps_per_epoch)
            last = learning_rate(schedule, step=epoch * steps_per_epoch - 1, steps_per_epoch=steps_per_epoch)
            assert first == pytest.approx(0.4 * (1 + math.cos(math.pi * epoch / 30)))
            assert last == pytest.approx(0.4 * (1 + math.cos(math.pi * (epoch - 1) / 30)))


def test_warm_up_is_linear_from_zero_and_the_cosine_takes_the_rest() -> None:
    warm = [0.0, 0.4]  # 0.8 * e / 1
    rest = [0.4 * (1 + math.cos(math.pi * (e - 1) / 3)) for e in (1, 1.5, 2, 2.5, 3, 3.5)]
    assert rates(train(Cosine(warmup_epochs=1)), 2) == pytest.approx(warm + rest)


def test_warm_up_may_be_a_fraction_of_an_epoch_or_everything() -> None:
    per_step = rates(train(Cosine(warmup_epochs=0.5)), 4)
    assert per_step[:3] == pytest.approx([0.0, 0.4, 0.8])
    per_epoch = rates(train(Cosine(warmup_epochs=0.5, per="epoch")), 4)
    assert per_epoch[:4] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert per_epoch[4] == pytest.approx(0.4 * (1 + math.cos(math.pi * 0.5 / 3.5)))
    everything = rates(train(Cosine(warmup_epochs=4)), 1)
    assert everything == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_step_decay_follows_completed_epochs() -> None:
    schedule = train(Step(milestones=(3, 1), factor=0.1), epochs=5)
    assert rates(schedule, 2) == pytest.approx([0.8] * 2 + [0.08] * 4 + [0.008] * 4)


def test_staircase_one_epoch_ahead_ends_at_zero() -> None:
    # MoCo's CIFAR-10 notebook: e = 1, 2, 3, 4 of 4; the whole last epoch is wasted
    stairs = [0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5)), 0.0]
    assert rates(train(Cosine(per="next_epoch")), 3) == pytest.approx([rate for rate in stairs for _ in range(3)])


def test_warm_up_may_start_and_the_cosine_end_above_zero() -> None:
    # solo-learn: from 3e-5 over 2 epochs to .3; SDCLR: down to 1e-6
    schedule = train(Cosine(warmup_epochs=2, warmup_from=1e-4, end=0.5), peak=0.3)
    warm = [3e-5, 3e-5 + 0.25 * (0.3 - 3e-5), 3e-5 + 0.5 * (0.3 - 3e-5), 3e-5 + 0.75 * (0.3 - 3e-5)]
    rest = [0.15 + 0.075 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert rates(schedule, 2) == pytest.approx(warm + rest)


def test_step_decay_may_be_warmed_up() -> None:
    schedule = train(Step(milestones=(3,), warmup_epochs=1.5), epochs=4)
    assert rates(schedule, 2) == pytest.approx([0.0, 0.8 / 3, 1.6 / 3, 0.8, 0.8, 0.8, 0.08, 0.08])


def test_moco_v3s_schedule_at_its_milestones() -> None:
    # ViT: 1.5e-4 * 4096 / 256 after 40 of 300 epochs, half of it in the middle of the rest
    schedule = train(Cosine(warmup_epochs=40), 300, 1.5e-4, batch_size=4096, scale_learning_rate="linear")
    values = [learning_rate(schedule, step=epoch * 312, steps_per_epoch=312) for epoch in (0, 20, 40, 170)]
    assert values == pytest.approx([0.0, 1.2e-3, 2.4e-3, 1.2e-3])
    assert 0 < learning_rate(schedule, step=300 * 312 - 1, steps_per_epoch=312) < 1e-10


def test_learning_rate_is_scaled_to_the_batch() -> None:
    constant = Step(milestones=(99,))
    scaled = {
        scaling: rates(train(constant, 1, 0.075, batch_size=1024, scale_learning_rate=scaling), 1)[0]
        for scaling in ("none", "linear", "sqrt")
    }
    assert scaled == pytest.approx({"none": 0.075, "linear": 0.3, "sqrt": 2.4})


@pytest.mark.parametrize(
    ("initial", "values"),
    [
        (0.99, [0.99, 0.991464, 0.995, 0.998536, 1.0]),
        (0.996, [0.996, 0.996586, 0.998, 0.999414, 1.0]),
    ],
)
def test_momentum_goes_to_one(initial: float, values: list[float]) -> None:
    assert [cosine_momentum(initial, f / 4) for f in range(5)] == pytest.approx(values, abs=5e-7)


def test_weight_of_the_intermediate_loss_grows_from_zero() -> None:
    assert cosine_ramp(0.8, 0.0) == 0.0
    assert cosine_ramp(0.8, 0.5) == pytest.approx(0.4)
    assert cosine_ramp(0.8, 1.0) == pytest.approx(0.8)
