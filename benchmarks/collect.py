"""Points per second of ``sweep collect`` beside a bare ``MlflowClient.log_batch`` loop, on the same kind of store.

    python benchmarks/collect.py [--runs 4] [--lines 2500] [--pairs 5] [--server]

Both sides get the same points (four metrics a line) and a fresh SQLite database for every measurement, made from one
template, so that creating tables is not measured; or experiments of their own on one server. The bare loop has them
ready in memory as MLflow entities, a thousand at a time, and Python's default garbage collection. Ours keeps the
collector away from what importing MLflow left, as :func:`connect` does in a process of its own, reads the points from
the directories of working runs, and does everything else that their collection does (parameters, tags, artifacts). The
two sides take turns; printed are the medians, their ratio, how long it takes to collect again when there is nothing
new, what a pass costs while four of the runs grow, and what the end of a run adds (final metrics and figures).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.collect import collect
from orchestrator.collect.store import connect
from orchestrator.runs import ExperimentView, RunView
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from tests.integration.tracking.servers import served
from trainers.config import RunConfig
from trainers.rundir import AttemptRecord, Manifest, Metric, Result, RunDir, atomic

START = 1_700_000_000.0
METRICS_PER_LINE = 4
BATCH = 1000
#: Runs that grow, and end, while the others stand still.
NUM_WORKING = 4


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
    """Directories of working runs whose lines are all committed."""
    views = []
    for number in range(num_runs):
        run_id = f"{number:012x}"
        run_dir = RunDir(workspace.runs_dir / run_id)
        run_dir.attempt_dir(1).mkdir(parents=True)
        run_dir.checkpoints_dir.mkdir()
        attempt = AttemptRecord(number=1, token="t", backend="local", job_id="1", started=START)
        atomic.write_json(run_dir.attempt_path(1), attempt.to_json())
        atomic.write_json(run_dir.spec_path, {"config": RunConfig(seed=number).model_dump(mode="json")})
        view = RunView(run_id, number, {"seed": str(number)}, RunState.RUNNING, "", "local", "1", 1, run_dir)
        append(view, range(num_lines))
        views.append(view)
    return views


def append(view: RunView, steps: range) -> None:
    """Lines of a metrics file, and a checkpoint that stands for them."""
    run_dir = view.run_dir
    with open(run_dir.metrics_path, "a") as file:
        for step in steps:
            values = measured(view.position, step)
            line = Metric(step=step, epoch=step / 100, time=START + step / 10, metrics=values)
            file.write(json.dumps(line.to_json()) + "\n")
    folder = run_dir.checkpoints_dir / f"step_{steps.stop}"
    folder.mkdir()
    manifest = Manifest(
        run_id=view.run_id,
        step=steps.stop,
        epoch=steps.stop / 100,
        metrics_offset=run_dir.metrics_path.stat().st_size,
        files={},
        attempt=1,
        time=START,
    )
    atomic.write_json(folder / "manifest.json", manifest.to_json())


def bare(uri: str, num_runs: int, num_lines: int) -> float:
    """Seconds of a loop over ``log_batch`` with entities that are there already."""
    from mlflow.entities import Metric as Point

    gc.unfreeze()
    client = connect(uri)
    experiment = client.create_experiment(f"bare {time.time()}")
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


@dataclass(frozen=True)
class Ours:
    """One experiment to collect, again and again."""

    uri: str
    workspace: Workspace
    views: list[RunView]
    name: str
    cursors: Cursors

    def collect(self, views: list[RunView] | None = None) -> tuple[float, float]:
        """Seconds by the clock, and of this process's processors, that one collection takes."""
        experiment = ExperimentView(self.name, "name: ours\n", Path("ours.yaml"), ("seed",))
        connect(self.uri)
        gc.freeze()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        summary = collect(experiment, views or self.views, uri=self.uri, workspace=self.workspace, cursors=self.cursors)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        assert not summary.problems, summary.problems
        return seconds, cpu

    def follow(self, num_lines: int, num_passes: int = 5) -> float:
        """Seconds of processors of a pass in which a few runs have ten new lines each, and the others nothing."""
        spent = []
        for number in range(num_passes):
            first = num_lines + 10 * number
            for view in self.views[:NUM_WORKING]:
                append(view, range(first, first + 10))
            spent.append(self.collect()[1])
        return statistics.median(spent)

    def finish(self) -> float:
        """Seconds that the ends of a few runs take, for each of them."""
        ended = list(self.views)
        for number, view in enumerate(self.views[:NUM_WORKING]):
            last = view.run_dir.read_metrics()[-1]
            result = Result(run_id=view.run_id, steps=last.step + 1, epochs=1, metrics=last.metrics)
            atomic.write_json(view.run_dir.result_path, result.to_json())
            ended[number] = replace(view, state=RunState.COMPLETED)
        return self.collect(ended)[0] / NUM_WORKING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--lines", type=int, default=2500, help="lines of each metrics file")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side")
    parser.add_argument("--server", action="store_true", help="through a tracking server, artifacts too")
    options = parser.parse_args()
    num_points = options.runs * options.lines * METRICS_PER_LINE
    bare_s, ours_s, again = [], [], []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        template = folder / "template.db"
        connect(f"sqlite:///{template}")
        server = stack.enter_context(served(folder)) if options.server else None
        workspace = Workspace(folder / "workspace")
        workspace.path.mkdir()
        for pair in range(options.pairs):
            shutil.rmtree(workspace.path)
            views = write_runs(workspace, options.runs, options.lines)
            uris = []
            for name in ("bare", "ours"):
                store = folder / f"{name}{pair}.db"
                shutil.copy(template, store)
                uris.append(server or f"sqlite:///{store}")
            bare_s.append(bare(uris[0], options.runs, options.lines))
            ours = Ours(uris[1], workspace, views, f"ours {pair}", Cursors())
            ours_s.append(ours.collect()[0])
            again.append(ours.collect())
        follow_s, finish_s = ours.follow(options.lines), ours.finish()
    print(f"{options.runs} runs, {num_points:,} points, medians of {options.pairs} pairs")
    print(f"bare log_batch loop   {num_points / statistics.median(bare_s):10,.0f} points/s")
    print(f"sweep collect         {num_points / statistics.median(ours_s):10,.0f} points/s")
    ratio = statistics.median(slow / fast for slow, fast in zip(bare_s, ours_s, strict=True))
    print(f"ratio                 {ratio:10.2f}")
    print(f"collect again         {statistics.median(seconds for seconds, _ in again):10.2f} s")
    print(f"  of processors       {statistics.median(cpu for _, cpu in again):10.2f} s")
    print(f"follow {NUM_WORKING} of the runs  {follow_s:10.2f} s of processors a pass")
    print(f"the end of a run      {finish_s:10.2f} s")


if __name__ == "__main__":
    main()
