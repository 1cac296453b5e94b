"""A run moves from backend to backend, in one run directory, and ends with the numbers of one that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.state import Cause
from tests.integration.ray.cluster import RayCluster
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.conftest import cluster as slurm  # noqa: F401 - a fixture
from trainers.rundir import Phase, RunDir

EXPERIMENT = """
name: moving
base:
  data: {name: digits, profile: {name: balanced, size: 200}}
  backbone: {name: resnet18, width: 4}
  augment: {flip_probability: 0.0, blur_probability: 0.0}
  train: {epochs: 120, batch_size: 32, learning_rate: 0.06}
  evaluate: {knn: {k: [5], bank: train, every_epochs: 40}}
  runtime: {checkpoint_every_s: 1}
grid:
  method: [{name: moco_v2, queue_size: 64, bn_group_size: 16}]
report: {metrics: [eval/knn/top1]}
"""


class Mover:
    """One experiment of one run, in one workspace."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir()
        self.file = folder / "moving.yaml"
        self.file.write_text(EXPERIMENT)
        self.workspace = folder / "workspace"
        self.log_path = folder / "output.log"
        self.environment = environment

    @property
    def run_dir(self) -> RunDir:
        (path,) = (self.workspace / "runs").glob("*")
        return RunDir(path)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            whole = [sys.executable, "-m", "orchestrator", *command, f"--workspace={self.workspace}"]
            return subprocess.Popen(whole, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def sweep(self, *command: str) -> int:
        """Exit code of a command of ``sweep``."""
        return self.start(*command).wait(timeout=600)

    def sweep_on(self, command: str, backend: str) -> subprocess.Popen[bytes]:
        """``sweep run`` or ``sweep submit`` of the file, with another backend than it says."""
        return self.start(command, str(self.file), f"--backend={backend}")

    def is_getting_on(self, backend: str) -> bool:
        """Whether the run trains on this backend, and is farther there than it was before."""
        if not any((self.workspace / "runs").glob("*")):
            return False
        status = self.run_dir.read_status()
        attempt = None if status is None else self.run_dir.read_attempt(status.attempt)
        if status is None or attempt is None or attempt.ended is not None or status.phase is not Phase.TRAINING:
            return False
        return attempt.backend == backend and status.step > attempt.first_step + 20

    def output(self) -> str:
        return self.log_path.read_text()


@pytest.mark.soak
def test_a_run_moves_through_all_backends(
    cluster: RayCluster,
    slurm: Cluster,  # noqa: F811
    tmp_path: Path,
    numbers_of: Callable[[RunDir], dict[str, Any]],
) -> None:
    alone = Mover(tmp_path / "alone", slurm.environment())
    assert alone.sweep_on("run", "local").wait(timeout=600) == 0, alone.output()

    moved = Mover(tmp_path / "moved", {**slurm.environment(), **cluster.environment()})
    here = moved.sweep_on("run", "local")
    cluster.wait_for(lambda: moved.is_getting_on("local"), 300)
    here.send_signal(signal.SIGINT)
    assert here.wait(timeout=300) == 130, moved.output()
    for backend in ("ray", "slurm"):
        assert moved.sweep_on("submit", backend).wait(timeout=300) == 0, moved.output()
        cluster.wait_for(lambda backend=backend: moved.is_getting_on(backend), 300)
        assert moved.sweep("cancel") == 0, moved.output()
    assert moved.sweep_on("run", "local").wait(timeout=600) == 0, moved.output()

    attempts = moved.run_dir.read_attempts()
    backends = [backend for backend, _ in groupby(record.backend for record in attempts)]
    assert backends == ["local", "ray", "slurm", "local"]
    assert [record.cause for record in attempts[:-1]] == [Cause.PREEMPTED] * (len(attempts) - 1)
    assert all(later.first_step >= earlier.last_step > 0 for earlier, later in pairwise(attempts))
    assert numbers_of(moved.run_dir) == numbers_of(alone.run_dir)
