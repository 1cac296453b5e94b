"""The arithmetic of comparisons, against SciPy's tests, by its properties, and by simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.report.model import Estimate
from orchestrator.report.statistics import (
    MOST_SEEDS,
    POWER,
    effect_seen,
    estimate,
    holm,
    mean_interval,
    paired_difference,
    paired_power,
    seeds_needed,
)

percent = st.floats(0, 100).map(lambda value: round(value, 3))
pairs = st.lists(st.tuples(percent, percent), min_size=2, max_size=12)
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def sides(values: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in values], [b for _, b in values]


def test_the_deviation_is_that_of_a_sample() -> None:
    assert estimate([1.0, 2.0, 3.0, 4.0]) == Estimate(2.5, pytest.approx(1.2909944487), 4)
    assert estimate([3.0]) == Estimate(3.0, None, 1)
    assert estimate([]) is None


@given(pairs, confidences)
def test_differences_are_those_of_the_paired_t_test(values: list[tuple[float, float]], confidence: float) -> None:
    first, second = sides(values)
    found = paired_difference(first, second, confidence)
    if found.interval is None:
        assert len({round(a - b, 9) for a, b in values}) == 1
        return
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(confidence)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)


@given(pairs, confidences)
def test_the_other_way_round_is_the_same_with_the_other_sign(
    values: list[tuple[float, float]], confidence: float
) -> None:
    first, second = sides(values)
    one, other = paired_difference(first, second, confidence), paired_difference(second, first, confidence)
    assert (one.mean, one.std, one.n, one.p) == (pytest.approx(-other.mean), other.std, other.n, other.p)
    if one.interval is not None and other.interval is not None:
        assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))
    assert (one.interval is None) == (other.interval is None)


@given(pairs, st.floats(-100, 100))
def test_a_constant_on_both_sides_changes_nothing(values: list[tuple[float, float]], constant: float) -> None:
    first, second = sides(values)
    one = paired_difference(first, second, 0.95)
    moved = paired_difference([a + constant for a in first], [b + constant for b in second], 0.95)
    assert moved.mean == pytest.approx(one.mean, abs=1e-9)
    assert (moved.p is None) == (one.p is None)
    assert moved.p is None or moved.p == pytest.approx(one.p, rel=1e-4, abs=1e-9)


def test_equal_pairs_are_no_difference() -> None:
    found = paired_difference([70.0, 71.3], [70.0, 71.3], 0.95)
    assert (found.mean, found.std, found.interval, found.p) == (0.0, 0.0, None, 1.0)


def test_equal_differences_say_nothing_of_noise() -> None:
    """A t test would call two seeds with the same difference as certain as can be."""
    found = paired_difference([70.1, 71.3, 69.7], [69.1, 70.3, 68.7], 0.95)
    assert found.mean == pytest.approx(1.0)
    assert (found.std, found.interval, found.p) == (0.0, None, None)


def test_one_pair_has_no_interval() -> None:
    found = paired_difference([70.0], [69.0], 0.95)
    assert (found.mean, found.std, found.n, found.interval, found.p) == (1.0, None, 1, None, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_keep_their_order_and_only_grow(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(old <= new <= 1 for old, new in zip(values, adjusted, strict=True))
    in_order = [adjusted[place] for place in np.argsort(values, kind="stable")]
    assert all(before <= after for before, after in pairwise(in_order))
    assert min(adjusted) == pytest.approx(min(1, len(values) * min(values)))


def test_adjusting_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()


def test_the_interval_of_a_mean_is_students() -> None:
    values = [70.2, 71.4, 69.9, 70.8]
    found = mean_interval(float(np.mean(values)), float(np.std(values, ddof=1)), 4, 0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 3, np.mean(values), stats.sem(values)))
    assert mean_interval(70.0, None, 1, 0.9) is None
    assert mean_interval(70.0, 0.0, 3, 0.9) is None


@pytest.mark.parametrize(("effect", "n"), [(1.0, 5), (0.5, 34), (2.0, 3), (0.0, 10)])
def test_power_is_the_share_of_experiments_that_see_the_difference(effect: float, n: int) -> None:
    differences = np.random.default_rng(0).normal(effect, 1, (40_000, n))
    seen = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
    assert paired_power(effect, n, 0.95) == pytest.approx(seen, abs=0.01)


@pytest.mark.parametrize("confidence", [0.51, 0.6, 0.9, 0.95, 0.9999])
@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.2, 1.0, 2.0, 12.0, 20.0, 1e6])
def test_as_many_seeds_as_needed_and_no_more(ratio: float, confidence: float) -> None:
    needed = seeds_needed(1.0, 5, ratio, confidence)
    assert needed is not None
    if needed.about < MOST_SEEDS:
        assert paired_power(ratio, needed.about, confidence) >= POWER
        assert needed.about == 2 or paired_power(ratio, needed.about - 1, confidence) < POWER
    assert needed.at_most >= needed.about


def test_few_seeds_promise_little() -> None:
    three, ten = seeds_needed(0.5, 3, 1.0, 0.95), seeds_needed(0.5, 10, 1.0, 0.95)
    assert three is not None
    assert ten is not None
    assert (three.about, ten.about) == (5, 5)
    assert three.at_most > 1.5 * ten.at_most
    assert seeds_needed(0.5, 2, 1.0, 0.95) is None


@pytest.mark.parametrize("confidence", [0.51, 0.9, 0.95, 0.9999])
@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_the_effect_that_is_seen_has_the_power_that_is_asked_for(n: int, confidence: float) -> None:
    effect = effect_seen(n, confidence)
    assert POWER <= paired_power(effect, n, confidence) < POWER + 0.02
    assert paired_power(0.98 * effect, n, confidence) < POWER


def test_the_upper_limit_of_the_spread_holds_in_four_of_five_experiments() -> None:
    """From pilots of three seeds: how often the number they name at most is enough."""
    enough = seeds_needed(1.0, 3, 1.0, 0.95)
    assert enough is not None
    spreads = np.random.default_rng(1).normal(0, 1, (2_000, 3)).std(axis=1, ddof=1)
    named = [found.at_most for spread in spreads if (found := seeds_needed(float(spread), 3, 1.0, 0.95))]
    assert np.mean([number >= enough.about for number in named]) == pytest.approx(0.8, abs=0.03)


def test_without_spread_there_is_no_number() -> None:
    assert seeds_needed(0.0, 3, 1.0, 0.95) is None
    most = seeds_needed(1e6, 3, 1e-3, 0.95)
    assert most is not None
    assert (most.about, most.at_most) == (MOST_SEEDS, MOST_SEEDS)


@given(st.floats(0.001, 100), st.floats(0.001, 100), st.integers(3, 30), confidences)
def test_more_is_needed_for_less(std: float, difference: float, n: int, confidence: float) -> None:
    coarse, fine = (seeds_needed(std, n, size, confidence) for size in (difference, difference / 2))
    assert coarse is not None
    assert fine is not None
    assert fine.about >= coarse.about
