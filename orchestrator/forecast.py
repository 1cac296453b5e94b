"""How long runs will take, by what runs like them took here. Pure.

Two runs are alike if they train the same method and backbone on the same data with the same batch and precision; what
differs (seed, learning rate, number of epochs) changes the time at most in proportion to the epochs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from trainers.config import canonical_json


@dataclass(frozen=True)
class Measured:
    """A completed run and the seconds that its jobs took together, start-up and evaluation included."""

    config: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Planned:
    """A run to be done, and the GPUs that it will hold meanwhile."""

    config: Mapping[str, Any]
    gpus: int


@dataclass(frozen=True)
class Forecast:
    """What is known beforehand.

    Attributes:
        known_runs: planned runs that the figures below are about; like the ``unknown_runs`` none was measured yet.
        job_seconds: their time, one after the other. Many run at once, so that the wall clock shows less.
        gpu_hours: the same time, times GPUs.
    """

    known_runs: int
    unknown_runs: int
    job_seconds: float
    gpu_hours: float


def forecast(planned: Iterable[Planned], measured: Iterable[Measured]) -> Forecast:
    """The time of ``planned`` at the pace of ``measured``."""
    paces: dict[str, list[float]] = defaultdict(list)
    for done in measured:
        paces[_kind(done.config)].append(done.seconds / done.config["train"]["epochs"])
    known = unknown = 0
    job_seconds = gpu_seconds = 0.0
    for run in planned:
        pace = paces.get(_kind(run.config))
        if pace is None:
            unknown += 1
            continue
        known += 1
        seconds = mean(pace) * run.config["train"]["epochs"]
        job_seconds += seconds
        gpu_seconds += seconds * run.gpus
    return Forecast(known, unknown, job_seconds, gpu_seconds / 3600)


def _kind(config: Mapping[str, Any]) -> str:
    """What runs have in common that take the same time for an epoch."""
    data = {key: value for key, value in config["data"].items() if key not in ("root", "split_seed", "class_order")}
    train = config["train"]
    return canonical_json([config["method"]["name"], config["backbone"], data, train["batch_size"], train["precision"]])
