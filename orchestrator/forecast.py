"""How long runs will take, by what runs like them took here; and the range that nine of ten such sweeps end in. Pure.

Two runs are alike if they train the same method and backbone on the same data with the same batch and precision; what
differs (seed, learning rate, number of epochs) changes the time at most in proportion to the epochs.

The range comes from drawing the sweep many times over. Paces of one kind scatter in ratio, by what was measured of
them; few measurements leave both their mean and their scatter in doubt, which widens the range as Student's t does.
Draws are the same in every call, so that adding runs never shortens a forecast.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from trainers.config import canonical_json

#: Share of cases in which the truth lies between ``low`` and ``high``.
CONFIDENCE = 0.9

#: What is believed of the scatter of paces before any is measured: this ratio, with the weight of so many measurements.
_PRIOR_SCATTER = 0.15
_PRIOR_WEIGHT = 3

#: By this ratio the rest of a run is off that is forecast from its own throughput: evaluation is still to come.
_OWN_SCATTER = 0.1

#: Runs that are drawn altogether, and how often a sweep is drawn at least and at most.
_BUDGET, _FEWEST, _MOST = 40_000, 21, 201


@dataclass(frozen=True)
class Measured:
    """A completed run and the seconds that its jobs took together, start-up and evaluation included."""

    config: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Planned:
    """A run to be done, and the GPUs that it will hold meanwhile.

    Attributes:
        left: share of it that is still to be done.
        seconds_left: of a run that is working, by its own throughput; None if that cannot be told.
    """

    config: Mapping[str, Any]
    gpus: int
    left: float = 1.0
    seconds_left: float | None = None


@dataclass(frozen=True)
class Range:
    """A forecast value: nine of ten times the truth lies between ``low`` and ``high``."""

    low: float
    likely: float
    high: float


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Forecast:
    """What is known beforehand.

    Attributes:
        known_runs: planned runs that the figures below are about; like the ``unknown_runs`` none was measured yet.
        measurements: how many measured runs the least known kind rests on; 0 where runs speak for themselves alone.
        job_seconds: their time, one after the other.
        gpu_hours: the same time, times GPUs.
        wall_seconds: number of runs at once -> seconds until the last of the known runs ends.
    """

    known_runs: int
    unknown_runs: int
    measurements: int = 0
    job_seconds: Range = NOTHING
    gpu_hours: Range = NOTHING
    wall_seconds: Mapping[int, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """Paces of runs that are alike: seconds an epoch, and by what ratio they scatter."""

    mean: float
    scatter: float
    count: int

    @classmethod
    def of(cls, paces: Sequence[float]) -> _Kind:
        mean, count = fmean(paces), len(paces)
        squares = sum((pace / mean - 1) ** 2 for pace in paces)
        variance = (_PRIOR_WEIGHT * _PRIOR_SCATTER**2 + squares) / (_PRIOR_WEIGHT + count - 1)
        return cls(mean, math.sqrt(variance), count)

    def draw(self, generator: random.Random) -> tuple[float, float]:
        """A mean pace and a scatter that these measurements may well have come from."""
        degrees = _PRIOR_WEIGHT + self.count - 1
        scatter = self.scatter * math.sqrt(degrees / (2 * generator.gammavariate(degrees / 2, 1.0)))
        return self.mean * math.exp(generator.gauss(0, scatter / math.sqrt(self.count))), scatter


def forecast(planned: Iterable[Planned], measured: Iterable[Measured], *, at_once: Iterable[int] = ()) -> Forecast:
    """The time of ``planned``, in this order, at the pace of ``measured``.

    Args:
        at_once: numbers of runs at the same time for which the wall clock is asked for.
    """
    paces: dict[str, list[float]] = defaultdict(list)
    for done in measured:
        if done.seconds > 0:
            paces[kind_of(done.config)].append(done.seconds / done.config["train"]["epochs"])
    kinds = {name: _Kind.of(found) for name, found in paces.items()}
    runs = [(run, kinds.get(kind_of(run.config))) for run in planned]
    known = [(run, kind) for run, kind in runs if kind is not None or run.seconds_left is not None]
    if not known:
        return Forecast(0, len(runs))
    draws = [_drawn(known, number) for number in range(min(_MOST, max(_FEWEST, _BUDGET // len(known))))]
    gpus = [run.gpus for run, _ in known]
    counts = [kind.count for run, kind in known if run.seconds_left is None and kind is not None]
    return Forecast(
        known_runs=len(known),
        unknown_runs=len(runs) - len(known),
        measurements=min(counts, default=0),
        job_seconds=_range([math.fsum(times) for times in draws]),
        gpu_hours=_range(
            [math.fsum(seconds * held for seconds, held in zip(times, gpus, strict=True)) / 3600 for times in draws]
        ),
        wall_seconds={slots: _range([wall_clock(times, slots) for times in draws]) for slots in at_once},
    )


def _drawn(known: Sequence[tuple[Planned, _Kind | None]], number: int) -> list[float]:
    """Seconds of each run in one sweep that could be."""
    # Two streams: however many runs there are, kinds and earlier runs are drawn alike.
    of_kinds, of_runs = random.Random(2 * number), random.Random(2 * number + 1)
    drawn: dict[_Kind, tuple[float, float]] = {}
    times = []
    for run, kind in known:
        deviation = of_runs.gauss(0, 1)
        if run.seconds_left is not None:
            times.append(run.seconds_left * math.exp(_OWN_SCATTER * deviation))
            continue
        assert kind is not None, "what has neither was sorted out"
        if kind not in drawn:
            drawn[kind] = kind.draw(of_kinds)
        mean, scatter = drawn[kind]
        times.append(mean * run.config["train"]["epochs"] * run.left * math.exp(scatter * deviation))
    return times


def wall_clock(times: Iterable[float], slots: int) -> float:
    """Seconds until the last run ends, if each begins as soon as one of ``slots`` places is free, in order."""
    ends = [0.0] * slots
    last = 0.0
    for seconds in times:
        end = heapq.heappop(ends) + seconds
        heapq.heappush(ends, end)
        last = max(last, end)
    return last


def _range(values: Sequence[float]) -> Range:
    ordered = sorted(values)
    tail = (1 - CONFIDENCE) / 2 * (len(ordered) - 1)
    return Range(ordered[math.floor(tail)], ordered[len(ordered) // 2], ordered[math.ceil(len(ordered) - 1 - tail)])


def kind_of(config: Mapping[str, Any]) -> str:
    """What runs have in common that take the same time for an epoch."""
    data = {key: value for key, value in config["data"].items() if key not in ("root", "split_seed", "class_order")}
    train = config["train"]
    return canonical_json([config["method"]["name"], config["backbone"], data, train["batch_size"], train["precision"]])
