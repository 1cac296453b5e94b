"""The section ``search``: axes whose values are sampled, and which runs are stopped early. Pure.

A sampled value depends on the search's seed, the cell of the grid, the number of the sample and the axis, and on
nothing else. So runs that are sampled at random are known beforehand, like those of any grid; how those that a sampler
suggests come into an experiment is left to :mod:`orchestrator.studies`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field

from trainers.config import NaturalInt, PositiveInt, Section, canonical_json

#: What a sampled axis may take as a value.
Scalar = bool | int | float | str

#: Significant digits of a sampled number, so that tables stay readable.
_DIGITS = 4
#: How often a sample that has come already is drawn again before the space counts as exhausted.
_MAX_DRAWS = 200

_EXAMPLE = "write one of {uniform: [low, high]}, {loguniform: [low, high]}, {randint: [low, high]}, {choice: [a, b]}"


@dataclass(frozen=True)
class Distribution:
    """Where the values of one axis come from.

    Attributes:
        kind: ``uniform``, ``loguniform``, ``randint`` (the upper bound is left out, as in Ray Tune) or ``choice``.
        values: the two bounds, or the choices.
    """

    kind: str
    values: tuple[Scalar, ...]

    @classmethod
    def of(cls, written: object) -> Self:
        """The distribution that ``{kind: [values]}`` means.

        Raises:
            ValueError: it means none.
        """
        if not isinstance(written, Mapping) or len(written) != 1:
            raise ValueError(f"what is written is no distribution; {_EXAMPLE}")
        kind, values = next(iter(written.items()))
        if kind not in ("uniform", "loguniform", "randint", "choice"):
            raise ValueError(f"{kind} is no distribution; {_EXAMPLE}")
        if not isinstance(values, list | tuple) or not all(isinstance(value, Scalar) for value in values):
            raise ValueError(f"{kind} takes a list of values; {_EXAMPLE}")
        if kind == "choice":
            if not values:
                raise ValueError("choice takes one value at least")
            return cls(kind, tuple(values))
        if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise ValueError(f"{kind} takes two numbers, [low, high]")
        low, high = values
        if low >= high:
            raise ValueError(f"{kind} takes a low bound below the high one; {low} is not below {high}")
        if kind == "loguniform" and low <= 0:
            raise ValueError(f"loguniform takes bounds above 0, and {low} is not")
        if kind == "randint" and not all(isinstance(value, int) for value in values):
            raise ValueError("randint takes two whole numbers")
        return cls(kind, (low, high))

    def at(self, share: float) -> Scalar:
        """The value below which the share ``share`` (0 to 1, without 1) of the distribution lies."""
        if self.kind == "choice":
            return self.values[int(share * len(self.values))]
        low, high = self.bounds
        if self.kind == "randint":
            return int(low + math.floor(share * (high - low)))
        if self.kind == "loguniform":
            return self.rounded(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.rounded(low + share * (high - low))

    def rounded(self, value: Scalar) -> Scalar:
        """``value`` with few digits, and inside the bounds; whole numbers and choices as they are."""
        if self.kind not in ("uniform", "loguniform"):
            return value
        low, high = self.bounds
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high, of all but a choice."""
        low, high = self.values
        assert isinstance(low, int | float) and isinstance(high, int | float), "a choice has no bounds"
        return low, high

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """Values that are allowed if all are: the smallest and the largest, or all choices."""
        if self.kind == "choice":
            return self.values
        low, high = self.bounds
        return (low, int(high) - 1) if self.kind == "randint" else (low, high)

    def to_json(self) -> dict[str, Any]:
        """As it is written in an experiment file."""
        return {self.kind: list(self.values)}


def _is_distribution(written: object) -> object:
    Distribution.of(written)
    return written


class Asha(Section):
    """Asynchronous successive halving: at growing epochs, only the best part of the runs that came so far goes on."""

    name: Literal["asha"] = "asha"
    #: The first epoch at which a run may be stopped.
    grace_epochs: PositiveInt = 10
    #: One run in so many goes on, at epochs that grow by this factor.
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Median(Section):
    """A run is stopped that at its best is worse than the median of the others' averages so far."""

    name: Literal["median"] = "median"
    grace_epochs: PositiveInt = 10
    #: Other runs that must have come as far before one is stopped.
    min_samples: PositiveInt = 3


class Search(Section):
    """Runs that are sampled, in each cell of the grid anew, and of which bad ones may be stopped early."""

    #: Axis -> distribution, such as ``train.learning_rate: {loguniform: [0.01, 1.0]}``.
    space: Annotated[dict[str, Annotated[dict[str, Any], BeforeValidator(_is_distribution)]], Field(min_length=1)]
    #: Runs of each cell.
    samples: PositiveInt = 16
    sampler: Literal["random", "optuna"] = "random"
    #: Of these samples, how many are random whatever the sampler; it suggests the others by what they brought.
    startup: PositiveInt = 10
    #: Of the samples; not of the runs.
    seed: NaturalInt = 0
    #: What makes a run better than another, as the report names it.
    metric: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")] = "eval/knn/top1"
    mode: Literal["max", "min"] = "max"
    stop: Asha | Median | None = Field(None, discriminator="name")

    @property
    def known_samples(self) -> int:
        """Runs of each cell that are known beforehand."""
        return self.samples if self.sampler == "random" else min(self.samples, self.startup)

    @property
    def distributions(self) -> dict[str, Distribution]:
        """Axis -> distribution, in the order written."""
        return {axis: Distribution.of(written) for axis, written in self.space.items()}


class Sample(NamedTuple):
    """What makes a run one of a search.

    Attributes:
        cell: number of the cell of the grid that it belongs to, counted before any is excluded.
        number: of the sample in this cell, from 0.
        values: axis -> sampled value.
    """

    cell: int
    number: int
    values: Mapping[str, Scalar]


class Exhausted(ValueError):
    """A space has fewer points than samples are asked of it."""


def cell_key(settings: Mapping[str, Any]) -> str:
    """What tells a cell of the grid from the others, whatever else the grid has.

    Cells that differ in nothing but ``seed`` have the same key, so that their samples are the same ones and a report
    can average over seeds.

    Args:
        settings: axis -> its plain value in this cell.
    """
    return canonical_json({axis: _plain(value) for axis, value in settings.items() if axis != "seed"})


def _plain(value: Any) -> Any:
    """1 and 1.0 are one number and must be one spelling."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def draw(space: Mapping[str, Distribution], seed: int, cell: str, number: int, attempt: int = 0) -> dict[str, Scalar]:
    """One point of the space: the sample ``number`` of a cell, drawn for the ``attempt``-th time."""
    return {axis: known.at(_share(seed, cell, number, attempt, axis)) for axis, known in space.items()}


def _share(*parts: object) -> float:
    """A number from 0 to 1, without 1, that looks random and follows from ``parts``."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * (1 - 2**-53)


def samples(space: Mapping[str, Distribution], seed: int, cell: str, count: int) -> Iterator[dict[str, Scalar]]:
    """The first ``count`` samples of a cell, all different. More samples of it begin with the same ones.

    Raises:
        Exhausted: there are not as many.
    """
    seen: set[Sequence[Scalar]] = set()
    for number in range(count):
        for attempt in range(_MAX_DRAWS):
            values = draw(space, seed, cell, number, attempt)
            if tuple(values.values()) not in seen:
                break
        else:
            raise Exhausted(f"the space has hardly more than {number} different points (numbers have {_DIGITS} digits)")
        seen.add(tuple(values.values()))
        yield values
