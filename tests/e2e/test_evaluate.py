"""``sweep evaluate``: finished runs are evaluated by further protocols, whoever is killed, and never trained."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from trainers.rundir import Phase, RunDir

EXPERIMENT = """
name: again
base:
  data: {name: digits, profile: {name: balanced, size: 200}}
  backbone: {name: resnet18, width: 4}
  method: {name: moco_v2, queue_size: 64, bn_group_size: 16, projection_dim: 16}
  train: {epochs: 2, batch_size: 32, learning_rate: 0.06}
  evaluate: {knn: {k: [5], bank: train}, geometry: null}
grid: {seed: [0, 1]}
report: {metrics: [eval/knn/top1]}
"""


class Folder:
    """A folder with an experiment file and its workspace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workspace = path / "sweeps"
        (path / "again.yaml").write_text(EXPERIMENT)

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=cwd or self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def sweep(self, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
        process = self.start(*arguments, cwd=cwd)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def run_dirs(self) -> list[RunDir]:
        return [RunDir(path) for path in sorted((self.workspace / "runs").glob("*"))]

    def points(self) -> dict[tuple[str, str, int], int]:
        """(run, metric, step) -> how many different values or times the store holds."""
        client = MlflowClient(f"sqlite:///{self.workspace / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("again")
        assert experiment is not None
        counts: dict[tuple[str, str, int], int] = collections.Counter()
        for run in client.search_runs([experiment.experiment_id]):
            for name in run.data.metrics:
                for point in client.get_metric_history(run.info.run_id, name):
                    counts[(run.data.tags.get("sweep.run_id", ""), name, point.step)] += 1
        return counts


@pytest.fixture
def finished(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    code, output = folder.sweep("run", "again.yaml")
    assert code == 0, output
    return folder


def trained(folder: Folder) -> dict[str, Any]:
    return {
        run_dir.path.name: (
            run_dir.encoder_path.read_bytes(),
            [(line.step, line.metrics) for line in run_dir.read_metrics() if "train/loss" in line.metrics],
        )
        for run_dir in folder.run_dirs()
    }


def test_what_is_new_is_evaluated_and_the_rest_left_alone(finished: Folder) -> None:
    before, points_before = trained(finished), finished.points()
    asked = ("--set", "evaluate.linear={epochs: 3}")
    assert "2 of those done will be evaluated by what is new" in finished.sweep("plan", "again.yaml", *asked)[1]
    code, output = finished.sweep("evaluate", "again", *asked)
    assert code == 0, output
    assert "2 finished runs will be evaluated by what is new, and not trained" in output
    assert trained(finished) == before
    for run_dir in finished.run_dirs():
        result = run_dir.read_result()
        assert result is not None
        assert set(result.protocols) == {"knn", "linear"}
        assert {"eval/knn/top1", "eval/linear/top1"} <= set(result.metrics)
        assert {"knn", "linear"} <= set(result.per_class)
    points = finished.points()
    assert {key: points[key] for key in points_before} == points_before, "what stood in the store stands there once"
    assert {name for _, name, _ in set(points) - set(points_before)} >= {"eval/linear/top1"}
    assert not [key for key, count in points.items() if count > 1 and key[1].startswith("eval/linear")]

    elsewhere = finished.path / "elsewhere"
    elsewhere.mkdir()
    code, output = finished.sweep("evaluate", "again", f"--workspace={finished.workspace}", cwd=elsewhere)
    assert code == 0, output
    assert "will be evaluated" not in output
    assert finished.points() == points


def test_killed_while_evaluating_the_old_result_stands_until_the_new_one_does(finished: Folder) -> None:
    before = trained(finished)
    command = ("evaluate", "again", "--set", "evaluate.linear={epochs: 100}")
    process = finished.start(*command)
    deadline = time.monotonic() + 60

    def is_evaluating() -> bool:
        statuses = [run_dir.read_status() for run_dir in finished.run_dirs()]
        return any(status is not None and status.phase is Phase.EVALUATING for status in statuses)

    while not is_evaluating():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert all(run_dir.read_result() is not None for run_dir in finished.run_dirs())
    code, output = finished.sweep(*command)
    assert code == 0, output
    assert trained(finished) == before
    assert not [key for key, count in finished.points().items() if count > 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "train.epochs=3"], "--set train.epochs=3 is no setting of the evaluation"),
        (["--set", "evaluate.linaer={}"], "evaluate.linaer"),
    ],
)
def test_only_the_evaluation_can_be_changed(tmp_path: Path, arguments: list[str], expected: str) -> None:
    folder = Folder(tmp_path)
    assert folder.sweep("submit", "again.yaml", "--set", "backend.max_parallel=1")[0] == 0
    code, output = folder.sweep("evaluate", "again", *arguments)
    assert (code, expected in output) == (2, True), output
    folder.sweep("cancel", "again")
