"""Forecasts: runs that are alike, in proportion to their epochs, with ranges that hold; the rest counts as unknown."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.forecast import CONFIDENCE, Forecast, Measured, Planned, forecast, wall_clock

TIMES = st.lists(st.floats(0, 1e6), max_size=30)


def config(method: str = "isd", *, epochs: int = 10, seed: int = 0, batch_size: int = 256) -> dict[str, Any]:
    return {
        "method": {"name": method},
        "backbone": {"name": "resnet18"},
        "data": {"name": "cifar10", "root": f"/somewhere/{seed}"},
        "train": {"epochs": epochs, "batch_size": batch_size, "precision": "fp32"},
        "seed": seed,
    }


def test_time_is_in_proportion_to_the_epochs_and_averaged_over_like_runs() -> None:
    measured = [Measured(config(seed=seed), 190.0 + seed) for seed in range(20)]
    found = forecast([Planned(config(epochs=20, seed=2), gpus=4)], measured)
    assert (found.known_runs, found.unknown_runs, found.measurements) == (1, 0, 20)
    assert found.job_seconds.likely == pytest.approx(400, rel=0.05)
    assert found.gpu_hours.likely == pytest.approx(found.job_seconds.likely * 4 / 3600)


def test_runs_of_another_kind_say_nothing() -> None:
    measured = [Measured(config("moco_v2"), 100.0), Measured(config(batch_size=512), 100.0)]
    assert forecast([Planned(config(), gpus=0)] * 3, measured) == Forecast(0, 3)


def test_a_working_run_speaks_for_itself() -> None:
    found = forecast([Planned(config(), gpus=1, seconds_left=100.0)], [Measured(config(), 1e6)])
    assert found.job_seconds.likely == pytest.approx(100, rel=0.05)
    assert found.measurements == 0


def test_what_is_done_of_a_run_is_not_done_again() -> None:
    measured = [Measured(config(), 100.0)]
    whole, half = (forecast([Planned(config(), 0, left=left)], measured) for left in (1.0, 0.5))
    assert half.job_seconds.likely == pytest.approx(whole.job_seconds.likely / 2)


def test_few_measurements_leave_much_open() -> None:
    def width(count: int) -> float:
        measured = [Measured(config(seed=seed), 100.0 + seed % 3) for seed in range(count)]
        found = forecast([Planned(config(), 0)] * 50, measured).job_seconds
        return (found.high - found.low) / found.likely

    assert width(1) > 2 * width(10) > 4 * width(200) > 0


def test_many_runs_average_out_what_a_single_one_does_not() -> None:
    measured = [Measured(config(), seconds) for seconds in (80.0, 100.0, 120.0) * 30]
    one, many = (forecast([Planned(config(), 0)] * count, measured).job_seconds for count in (1, 100))
    assert (many.high - many.low) / many.likely < (one.high - one.low) / one.likely / 3


@pytest.mark.parametrize(("count", "scatter"), [(2, 0.15), (5, 0.3), (40, 0.05)])
def test_nine_of_ten_sweeps_fall_into_the_range(count: int, scatter: float) -> None:
    generator = random.Random(7)
    held = 0
    trials = 120
    for _ in range(trials):
        paces = [100 * generator.lognormvariate(0, scatter) for _ in range(count + 12)]
        found = forecast([Planned(config(), 0)] * 12, [Measured(config(), pace) for pace in paces[:count]])
        held += found.job_seconds.low <= sum(paces[count:]) <= found.job_seconds.high
    # For a scatter that is like the one believed beforehand; a smaller one is covered more often.
    assert held / trials > CONFIDENCE - 0.08
    assert held / trials < 1.0


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=6), st.integers(1, 5))
def test_more_runs_never_take_less(epochs: list[int], slots: int) -> None:
    measured = [Measured(config(), 90.0), Measured(config(), 110.0)]
    runs = [Planned(config(epochs=number), 1) for number in epochs]
    found = [forecast(runs[:count], measured, at_once=[slots]) for count in range(1, len(runs) + 1)]
    for fewer, more in itertools.pairwise(found):
        assert fewer.job_seconds.likely <= more.job_seconds.likely
        assert fewer.wall_seconds[slots].high <= more.wall_seconds[slots].high


@given(TIMES, st.integers(1, 40))
def test_the_wall_clock_lies_between_its_bounds(times: list[float], slots: int) -> None:
    found = wall_clock(times, slots)
    assert max([*times, sum(times) / slots], default=0) <= found * (1 + 1e-9)
    assert found <= sum(times) * (1 + 1e-9)
    assert wall_clock(times, 1) == pytest.approx(sum(times))
    assert wall_clock(times, max(1, len(times))) == max(times, default=0)


def test_runs_begin_in_order_as_places_are_free() -> None:
    assert wall_clock([3, 3, 2, 5], 2) == 8  # 3 and 3; then 2 and 5


def test_ten_thousand_runs_are_forecast_while_one_waits() -> None:
    measured = [Measured(config(seed=seed), 100.0 + seed) for seed in range(9)]
    found = forecast([Planned(config(), 1)] * 10_000, measured, at_once=[1, 16])
    assert found.wall_seconds[16].likely == pytest.approx(found.job_seconds.likely / 16, rel=0.02)
