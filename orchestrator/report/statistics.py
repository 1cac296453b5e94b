"""The arithmetic of comparisons: estimates, paired differences, several tests at once, seeds that are needed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from orchestrator.report.model import Estimate, Interval, PairedDifference, SeedsNeeded

#: The share of experiments in which a difference that exists is to be seen.
POWER = 0.8
#: How sure one can be that the true spread is no larger than what ``SeedsNeeded.at_most`` was computed with. A sample
#: size from a pilot's own deviation is too small about half of the time; with this upper limit, four times in
#: five the power is what was asked for (Browne 1995).
SPREAD_CONFIDENCE = 0.8
#: Of fewer, the limit of the spread is several times what was seen, and the number of pairs that it leads to no help.
FEWEST_PAIRS = 3
#: More seeds than anybody trains: where the search ends.
MOST_SEEDS = 1_000
#: Noncentrality beyond which SciPy's distribution gives up.
_LARGE_SHIFT = 20.0
#: Differences that spread by less than this share of the values differ by rounding only.
_ROUNDING = 1e-9


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation, NaN where a value is not finite; None of nothing."""
    known = list(values)
    if not known:
        return None
    mean = fmean(known) if all(map(math.isfinite, known)) else math.nan
    return Estimate(mean, _deviation(known, mean) if len(known) > 1 else None, len(known))


def mean_interval(mean: float, std: float | None, n: int, confidence: float) -> Interval | None:
    """Student's interval around the mean of ``n`` values; None where they tell nothing of their spread."""
    if std is None or n < 2 or not _spreads(std, abs(mean)):
        return None
    half = float(_special().stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
    return Interval(mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float) -> PairedDifference:
    """``first`` minus ``second``, pair by pair.

    Args:
        first, second: finite values, of the same length and at least one; item i of both belongs together.
        confidence: of the interval, above 0 and below 1.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return PairedDifference(mean, None, n, None, None)
    std = _deviation(differences, mean)
    size = max(map(abs, (*first, *second)))
    if not _spreads(std, size):
        return PairedDifference(mean, 0.0, n, None, None if _spreads(abs(mean), size) else 1.0)
    special = _special()
    error = std / math.sqrt(n)
    p = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * error
    return PairedDifference(mean, std, n, Interval(mean - half, mean + half), p)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p values of a family of tests, adjusted so that any false finding among them is as rare as one alone (Holm).

    Returns:
        In the order given, each at least as large as before and at most 1.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return tuple(adjusted)


def seeds_needed(std: float, n: int, difference: float, confidence: float) -> SeedsNeeded | None:
    """How many pairs would show a true difference in :data:`POWER` of all experiments.

    Args:
        std: sample standard deviation of the ``n`` differences seen.
        difference: the one to be seen, above 0, in the units of ``std``.
        confidence: 1 minus the level of the two-sided test.

    Returns:
        None where no spread was seen, or in fewer than :data:`FEWEST_PAIRS`. Numbers end at :data:`MOST_SEEDS`.
    """
    if std <= 0 or n < FEWEST_PAIRS:
        return None
    limit = std * math.sqrt((n - 1) / float(_special().chdtri(n - 1, SPREAD_CONFIDENCE)))
    return SeedsNeeded(_pairs_for(difference / std, confidence), _pairs_for(difference / limit, confidence))


def paired_power(effect: float, n: int, confidence: float) -> float:
    """Probability that a two-sided paired t test of ``n`` pairs finds a true difference of ``effect`` deviations."""
    special = _special()
    shift = effect * math.sqrt(n)
    critical = float(special.stdtrit(n - 1, (1 + confidence) / 2))
    if shift > _LARGE_SHIFT:  # the noise of the mean is nothing beside it; what is left is that of the deviation
        return float(special.chdtr(n - 1, (n - 1) * (shift / critical) ** 2))
    wrong = float(special.nctdtr(n - 1, shift, -critical))
    # NaN where it is too rare for SciPy to say how rare.
    return float(1 - special.nctdtr(n - 1, shift, critical)) + (0.0 if math.isnan(wrong) else wrong)


def effect_seen(n: int, confidence: float) -> float:
    """The difference, in deviations, that the test of ``n`` pairs finds with :data:`POWER`; ``n`` is two or more."""
    too_small, enough = 0.0, 1.0
    while paired_power(enough, n, confidence) < POWER:
        too_small, enough = enough, 2 * enough
    while enough - too_small > 0.01 * enough:
        middle = (too_small + enough) / 2
        if paired_power(middle, n, confidence) < POWER:
            too_small = middle
        else:
            enough = middle
    return enough


def _pairs_for(effect: float, confidence: float) -> int:
    """The fewest pairs whose test has :data:`POWER`, by galloping and halving from below."""
    special = _special()
    # With a known deviation the test would be normal and need fewer.
    normal = ((special.ndtri((1 + confidence) / 2) + special.ndtri(POWER)) / effect) ** 2
    if normal >= MOST_SEEDS:
        return MOST_SEEDS
    too_few, step = max(1, int(normal)), 1
    if too_few > 1 and paired_power(effect, too_few, confidence) >= POWER:
        too_few = 1  # tests at low confidence, which also find the wrong sign now and then
    while paired_power(effect, too_few + step, confidence) < POWER:
        too_few, step = too_few + step, 2 * step
    enough = too_few + step
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if paired_power(effect, middle, confidence) < POWER:
            too_few = middle
        else:
            enough = middle
    return min(enough, MOST_SEEDS)


def _deviation(values: Sequence[float], mean: float) -> float:
    """Of a sample around its mean. NaN goes through, which the standard library's refuses."""
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _spreads(std: float, size: float) -> bool:
    return std > _ROUNDING * size


def _special() -> Any:
    """SciPy's distribution functions, which take a moment to import."""
    from scipy import special

    return special
