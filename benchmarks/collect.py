"""Points per second of ``sweep collect`` beside a bare ``MlflowClient.log_batch`` loop, on the same kind of store.

    python benchmarks/collect.py [--runs 4] [--lines 2500] [--pairs 5]

Both sides get the same points (four metrics a line) and a fresh SQLite database for every measurement, made from one
template, so that creating tables is not measured. The bare loop has them ready in memory as MLflow entities, a thousand
at a time. Ours reads them from run directories and does everything else that a collection does (parameters, tags,
artifacts, models). The two sides take turns; printed are the medians, their ratio, and how long it takes to collect
again when there is nothing new.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.collect import collect
from orchestrator.collect.store import connect
from orchestrator.runs import ExperimentView, RunView
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from trainers.config import RunConfig
from trainers.rundir import Metric, Result, RunDir, atomic

START = 1_700_000_000.0
METRICS_PER_LINE = 4
BATCH = 1000


@dataclass
class Cursors:
    """Cursors in memory."""

    texts: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def cursors(self, uri: str, experiment: str) -> Mapping[str, str]:
        return self.texts.get((uri, experiment), {})

    def put_cursors(self, uri: str, experiment: str, cursors: Mapping[str, str]) -> None:
        self.texts.setdefault((uri, experiment), {}).update(cursors)


def measured(run: int, step: int) -> dict[str, float]:
    """What one line of a metrics file holds."""
    values = {"train/loss": 7.0 / (step + 1 + run), "train/lr": 0.03, "train/entropy": step % 7 / 7}
    return values | {"system/images_per_s": 900.0 + step % 50}


def write_runs(workspace: Workspace, num_runs: int, num_lines: int) -> list[RunView]:
    """Completed run directories."""
    views = []
    for number in range(num_runs):
        run_id = f"{number:012x}"
        run_dir = RunDir(workspace.runs_dir / run_id)
        run_dir.path.mkdir(parents=True)
        atomic.write_json(run_dir.spec_path, {"config": RunConfig(seed=number).model_dump(mode="json")})
        with open(run_dir.metrics_path, "w") as file:
            for step in range(num_lines):
                line = Metric(step=step, epoch=step / 100, time=START + step / 10, metrics=measured(number, step))
                file.write(json.dumps(line.to_json()) + "\n")
        result = Result(run_id=run_id, steps=num_lines, epochs=1, metrics=measured(number, num_lines - 1))
        atomic.write_json(run_dir.result_path, result.to_json())
        axes = {"seed": str(number)}
        views.append(RunView(run_id, number, axes, RunState.COMPLETED, "", "local", "1", 1, run_dir))
    return views


def bare(store: Path, num_runs: int, num_lines: int) -> float:
    """Seconds of a loop over ``log_batch`` with entities that are there already."""
    from mlflow.entities import Metric as Point

    client = connect(f"sqlite:///{store}")
    experiment = client.create_experiment("bare", artifact_location=str(store.parent / "bare"))
    points = [
        [
            Point(key, value, round((START + step / 10) * 1000), step)
            for step in range(num_lines)
            for key, value in measured(number, step).items()
        ]
        for number in range(num_runs)
    ]
    begin = time.perf_counter()
    for of_run in points:
        run_id = client.create_run(experiment).info.run_id
        for first in range(0, len(of_run), BATCH):
            client.log_batch(run_id, metrics=of_run[first : first + BATCH])
    return time.perf_counter() - begin


def ours(store: Path, workspace: Workspace, views: list[RunView], cursors: Cursors) -> float:
    """Seconds of one collection."""
    experiment = ExperimentView("ours", "name: ours\n", Path("ours.yaml"), ("seed",))
    connect(f"sqlite:///{store}")
    begin = time.perf_counter()
    summary = collect(experiment, views, uri=f"sqlite:///{store}", workspace=workspace, cursors=cursors)
    seconds = time.perf_counter() - begin
    assert not summary.problems, summary.problems
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--lines", type=int, default=2500, help="lines of each metrics file")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side")
    options = parser.parse_args()
    num_points = options.runs * options.lines * METRICS_PER_LINE
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template.db"
        connect(f"sqlite:///{template}")
        workspace = Workspace(Path(folder) / "workspace")
        views = write_runs(workspace, options.runs, options.lines)

        def fresh(name: str, measure: Callable[[Path], float]) -> float:
            store = Path(folder) / f"{name}.db"
            shutil.copy(template, store)
            return measure(store)

        bare_s, ours_s, again_s = [], [], []
        for pair in range(options.pairs):
            cursors = Cursors()
            bare_s.append(fresh(f"bare{pair}", lambda store: bare(store, options.runs, options.lines)))
            ours_s.append(fresh(f"ours{pair}", lambda store: ours(store, workspace, views, cursors)))  # noqa: B023
            again_s.append(ours(Path(folder) / f"ours{pair}.db", workspace, views, cursors))
    print(f"{options.runs} runs, {num_points:,} points, medians of {options.pairs} pairs")
    print(f"bare log_batch loop   {num_points / statistics.median(bare_s):10,.0f} points/s")
    print(f"sweep collect         {num_points / statistics.median(ours_s):10,.0f} points/s")
    ratio = statistics.median(slow / fast for slow, fast in zip(bare_s, ours_s, strict=True))
    print(f"ratio                 {ratio:10.2f}")
    print(f"collect again         {statistics.median(again_s):10.2f} s")


if __name__ == "__main__":
    main()
