"""What runs measured while they trained, and its mean and spread over runs, on as few points as a reader can see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.rundir import RunDir

Floats = npt.NDArray[np.float64]

#: Bytes of a metrics file that are in memory at once.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Series:
    """One metric of one run.

    Attributes:
        epochs: (n,) ascending, fractional.
        values: (n,) what was measured there.
    """

    epochs: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Band:
    """A metric over the runs of a row.

    Attributes:
        x: (n,) ascending.
        mean: (n,) over the runs that have a value there.
        std: (n,) their sample standard deviation; NaN where there is a single one.
    """

    x: Floats
    mean: Floats
    std: Floats


def read_series(run_dir: RunDir, is_wanted: Callable[[str], bool]) -> dict[str, Series]:
    """The metrics of a run by name, from one pass over as much of its file as no resume will cut back.

    Of two values at one epoch the later line's counts.

    Raises:
        ValueError: a line is damaged; the message names the file.
    """
    path, stop = run_dir.metrics_path, run_dir.committed_metrics_offset()
    points: dict[str, dict[float, float] | None] = {}  # None: not wanted
    try:
        for record in _records(path, stop):
            epoch = record["epoch"]
            for name, value in record["metrics"].items():
                if name not in points:
                    points[name] = {} if is_wanted(name) else None
                known = points[name]
                if known is not None:
                    known[epoch] = value
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a line is damaged ({error}); restore the file, or train the run again") from error
    return {name: _series(known) for name, known in points.items() if known}


def _records(path: Path, stop: int) -> Iterator[dict[str, Any]]:
    """The complete lines up to a byte offset. Parsing a block of them at once takes half the time of one by one."""
    if not stop:
        return
    torn = b""
    with open(path, "rb") as file:
        while stop and (block := file.read(min(stop, _BLOCK))):
            stop -= len(block)
            whole, _, torn = (torn + block).rpartition(b"\n")
            yield from json.loads(b"[%b]" % whole.replace(b"\n", b","))


def _series(points: dict[float, float]) -> Series:
    epochs = np.fromiter(points.keys(), np.float64, len(points))
    values = np.fromiter(points.values(), np.float64, len(points))
    order = np.argsort(epochs, kind="stable")
    return Series(epochs[order], values[order])


def band(runs: Sequence[Series], most: int) -> Band:
    """Mean and spread over runs, at no more than ``most`` places.

    Where all runs were measured at the same epochs, and those are few enough, they are the places; a run that has not
    got so far is missing from there on. Else the time is cut into equal stretches, and each run counts with its mean in
    a stretch, which stands at the stretch's middle.

    Args:
        runs: at least one.
    """
    longest = max(runs, key=lambda run: len(run.epochs)).epochs
    if len(longest) <= most and all(np.isin(run.epochs, longest).all() for run in runs):
        values = np.full((len(runs), len(longest)), np.nan)
        for row, run in zip(values, runs, strict=True):
            row[np.searchsorted(longest, run.epochs)] = run.values
        return over_runs(longest, values)
    stretches = min(most, *(len(run.epochs) for run in runs), len(longest))
    edges = np.linspace(0.0, max(run.epochs[-1] for run in runs), stretches + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    return over_runs(middles, np.stack([_means(run, edges) for run in runs]))


def _means(run: Series, edges: Floats) -> Floats:
    """Mean of the run's values in each stretch, (stretches,); NaN in one without."""
    stretches = len(edges) - 1
    # A line stands for what lies before it, so an epoch on an edge belongs to the stretch that ends there.
    place = np.clip(np.searchsorted(edges, run.epochs, side="left") - 1, 0, stretches - 1)
    counts = np.bincount(place, minlength=stretches)
    sums = np.bincount(place, weights=run.values, minlength=stretches)
    means: Floats = np.divide(sums, counts, out=np.full(stretches, np.nan), where=counts > 0)
    return means


def over_runs(x: Floats, values: Floats) -> Band:
    """Mean and sample standard deviation over runs of ``values`` (runs, n), which are NaN where a run has none."""
    n = (~np.isnan(values)).sum(0)
    kept = n > 0
    x, values, n = x[kept], values[:, kept], n[kept]
    mean = np.nansum(values, 0) / n
    squares = np.nansum((values - mean) ** 2, 0)
    std = np.sqrt(np.divide(squares, n - 1, out=np.full(len(x), np.nan), where=n > 1))
    return Band(x, mean, std)
