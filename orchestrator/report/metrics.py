"""What is known of a metric by the last part of its name: which way is better, and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Better(Enum):
    """Which of two values of a metric one would rather have."""

    HIGHER = 1
    LOWER = -1
    UNKNOWN = 0


@dataclass(frozen=True)
class Measure:
    """Facts about a metric.

    Attributes:
        is_percent: a share of correct answers, or a spread of such shares.
        is_guessable: guessing gets it right one time in as many as there are classes.
    """

    better: Better = Better.UNKNOWN
    is_percent: bool = False
    is_guessable: bool = False


_SHARE = Measure(Better.HIGHER, is_percent=True, is_guessable=True)
_LOWER = Measure(Better.LOWER)
_MEASURES = {
    "top1": _SHARE,
    "top5": Measure(Better.HIGHER, is_percent=True),
    "class_mean": _SHARE,
    "many": _SHARE,
    "medium": _SHARE,
    "few": _SHARE,
    "class_std": Measure(Better.LOWER, is_percent=True),
    "loss": _LOWER,
    "alignment": _LOWER,
    "uniformity": _LOWER,
}


def measure_of(metric: str) -> Measure:
    """What is known of a metric, such as ``eval/knn/top1``; of most, nothing."""
    return _MEASURES.get(metric.rpartition("/")[2], Measure())
