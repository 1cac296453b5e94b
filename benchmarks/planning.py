"""Planning: from an experiment file to validated runs with their ids, beside a bare loop and Ray Tune's expansion.

Run: ``python benchmarks/planning.py [--cells 1000 10000 100000] [--pairs 3]``

Two grids: ``shared``, the usual case, in which many runs share their sections (methods x profiles x rates x seeds), and
``distinct``, the worst case, in which every run has a section of its own. Each measurement is a process of its own, so
that its peak memory is its own. Planning is one thread that waits for nothing, so processor time is what it takes on an
idle machine; ratios and limits are of that, and the wall clock stands beside it. What is compared:

* ``plan``: read the file, expand, apply rules, validate, make run ids and labels (what ``sweep plan`` needs);
* ``floor``: ``itertools.product``, a merged dictionary, ``json.dumps`` and SHA-256 for each cell; checks nothing;
* ``ray``: Ray Tune's own expansion of the same grid into dictionaries; checks nothing, and gives no ids.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LIMITS_S = {10_000: 2.0, 100_000: 15.0}
LIMIT_MB = 1024
#: Ray's expansion takes time that grows with the square of an axis's length: half a minute for 10,000 values.
LARGEST_FOR_RAY = {"shared": 10_000, "distinct": 1_000}

Grid = dict[str, list[Any]]


def shared_grid(cells: int) -> Grid:
    """``cells`` runs (a multiple of 100) that differ in method, profile, learning rate and seed."""
    profiles = [{"name": "long_tailed", "imbalance": imbalance} for imbalance in (10, 20, 50, 100)]
    return {
        "method": ["moco_v2", {"name": "isd", "queue_size": 65536}],
        "data.profile": ["balanced", *profiles],
        "train.learning_rate": [n / 100 for n in range(1, 11)],
        "seed": list(range(cells // 100)),
    }


def distinct_grid(cells: int) -> Grid:
    """``cells`` runs, each with a learning rate of its own."""
    return {"train.learning_rate": [n / 1e6 for n in range(1, cells + 1)]}


GRIDS: dict[str, Callable[[int], Grid]] = {"shared": shared_grid, "distinct": distinct_grid}
BASE = {"train": {"epochs": 100, "batch_size": 256}, "backbone": {"name": "resnet18", "width": 16}}
RULE = {"if": {"method": "isd", "data.profile": "long_tailed"}, "set": {"train.epochs": 120}}


def plan(grid: Grid) -> int:
    from orchestrator.experiment import load_experiment

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "planning.yaml")
        path.write_text(json.dumps({"name": "planning", "base": BASE, "grid": grid, "when": [RULE]}))
        return len(load_experiment(path).cells())


def floor(grid: Grid) -> int:
    ids = set()
    for values in itertools.product(*grid.values()):
        text = json.dumps(BASE | dict(zip(grid, values, strict=True)), sort_keys=True, separators=(",", ":"))
        ids.add(hashlib.sha256(text.encode()).hexdigest()[:12])
    return len(ids)


def ray(grid: Grid) -> int:
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    space = {**BASE, **{name: tune.grid_search(values) for name, values in grid.items()}}
    variants: Iterator[Any] = generate_variants(space)
    return sum(1 for _ in variants)


KINDS: dict[str, Callable[[Grid], int]] = {"plan": plan, "floor": floor, "ray": ray}


def measure(kind: str, grid: str, cells: int) -> dict[str, float]:
    """Processor and wall-clock seconds, and peak memory, of one process."""
    code = (
        "import json, runpy, sys; module = runpy.run_path(sys.argv[1]); "
        "print(json.dumps(module['measure_here'](sys.argv[2], sys.argv[3], int(sys.argv[4]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__, kind, grid, str(cells)], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_here(kind: str, grid: str, cells: int) -> dict[str, float]:
    """The same in this process: once small, which imports what is needed, then once at full size."""
    KINDS[kind](GRIDS[grid](100))
    space = GRIDS[grid](cells)
    started, wall_started = time.process_time(), time.perf_counter()
    found = KINDS[kind](space)
    seconds, wall_seconds = time.process_time() - started, time.perf_counter() - wall_started
    assert found == cells, f"{kind} made {found} runs of {cells}"
    return {
        "seconds": seconds,
        "wall_seconds": wall_seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def ratio(rounds: list[dict[str, dict[str, float]]], kind: str) -> str:
    """Median over the rounds of the time of ``plan`` over the time of ``kind``."""
    found = [each["plan"]["seconds"] / each[kind]["seconds"] for each in rounds if kind in each]
    return f"{statistics.median(found):.2f}" if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--pairs", type=int, default=3, help="repetitions of all measurements")
    arguments = parser.parse_args()
    print("grid        runs       plan      wall   µs/run  runs/s     peak  plan/floor  plan/ray  limit")
    for grid, cells in itertools.product(GRIDS, arguments.cells):
        kinds = [kind for kind in KINDS if kind != "ray" or cells <= LARGEST_FOR_RAY[grid]]
        rounds = [{kind: measure(kind, grid, cells) for kind in kinds} for _ in range(arguments.pairs)]
        seconds = statistics.median(each["plan"]["seconds"] for each in rounds)
        wall_seconds = statistics.median(each["plan"]["wall_seconds"] for each in rounds)
        megabytes = max(each["plan"]["megabytes"] for each in rounds)
        to_floor, to_ray = (ratio(rounds, kind) for kind in ("floor", "ray"))
        limit = LIMITS_S.get(cells)
        verdict = "" if limit is None else ("met" if seconds < limit and megabytes < LIMIT_MB else "MISSED")
        print(
            f"{grid:8} {cells:7,}  {seconds:7.2f} s {wall_seconds:7.2f} s {seconds / cells * 1e6:7.1f}"
            f" {cells / seconds:7,.0f}  {megabytes:4.0f} MB  {to_floor:>10}  {to_ray:>8}  {verdict}"
        )


if __name__ == "__main__":
    main()
