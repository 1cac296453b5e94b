"""Submissions without a controller: a manifest written by hand, and its driver started as a Ray job."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.board import Board, TrialNote
from orchestrator.backends.ray.manifest import Manifest, TrialOptions
from orchestrator.experiment.schema import Retries
from orchestrator.retry import RetryBudgets
from tests.conftest import TINY
from tests.integration.ray.cluster import RayCluster, processes_of
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.rundir import RunDir, atomic


def make_run(workspace: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The tiny run, with changes to sections of its configuration; its id."""
    run_id = uuid.uuid4().hex[:12]
    config: dict[str, Any] = json.loads(json.dumps(TINY))
    for section, values in (changes or {}).items():
        config[section] = {**config[section], **values}
    run_dir = RunDir(workspace / "runs" / run_id)
    run_dir.path.mkdir(parents=True)
    spec = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "config": RunConfig.model_validate(config).model_dump(mode="json"),
        "provenance": {},
    }
    atomic.write_json(run_dir.spec_path, spec)
    return run_id


@dataclass(frozen=True)
class Submission:
    """A manifest, and the Ray job that carries it out."""

    cluster: RayCluster
    manifest: Manifest

    @classmethod
    def of(
        cls,
        cluster: RayCluster,
        workspace: Path,
        shapes: Mapping[str, JobShape],
        *,
        retries: Retries | None = None,
        bundle: Mapping[str, float] | None = None,
        max_parallel: int | None = None,
    ) -> Submission:
        """Written, and not yet submitted."""
        manifest = Manifest(
            workspace=workspace,
            experiment="by hand",
            submission=uuid.uuid4().hex[:12],
            namespace=None,
            options=TrialOptions(grace_s=10, bundle=bundle or {}),
            budgets=RetryBudgets.of(retries or Retries()),
            shapes=shapes,
            max_parallel=max_parallel,
            created=time.time(),
        )
        manifest.write()
        return cls(cluster, manifest)

    def submit(self, **env_vars: str) -> Submission:
        """Start the driver."""
        self.cluster.client.submit_job(
            submission_id=self.manifest.submission_id,
            entrypoint=f"{sys.executable} -m orchestrator.backends.ray.driver {self.manifest.path}",
            runtime_env={"env_vars": {"RAY_kill_child_processes_on_worker_exit": "false", **env_vars}},
        )
        return self

    def status(self) -> str:
        """Ray's word for the job."""
        return str(self.cluster.client.get_job_status(self.manifest.submission_id).value)

    def wait_for_the_end(self, timeout_s: float = 120) -> str:
        """Wait until Ray says that the job is over; what it says."""
        self.cluster.wait_for(lambda: self.status() in ("SUCCEEDED", "FAILED", "STOPPED"), timeout_s)
        return self.status()

    def note(self, run_id: str) -> TrialNote | None:
        """What stands on the board about a run."""
        return Board.read(self.manifest.board_path).trials.get(run_id)

    def run_dir(self, run_id: str) -> RunDir:
        return self.manifest.run_dir(run_id)

    def wait_for_step(self, run_id: str, step: int = 3) -> None:
        """Wait until a run of the submission trains, and has come to a step."""
        self.cluster.wait_for(lambda: self._steps(run_id) >= step)

    def _steps(self, run_id: str) -> int:
        run_dir = self.run_dir(run_id)
        status, numbers = run_dir.read_status(), run_dir.attempt_numbers()
        return status.step if status is not None and numbers and status.attempt == numbers[-1] else -1

    def launcher(self, run_id: str) -> psutil.Process:
        """The launcher of the first node."""
        return next(
            process for process in processes_of(self.run_dir(run_id).path) if "orchestrator.launch" in process.cmdline()
        )

    def rank(self, run_id: str) -> psutil.Process:
        """The first rank of the first node."""
        agent = self.launcher(run_id).children()[0]
        return min(agent.children(), key=lambda process: process.pid)

    def causes(self, run_id: str) -> list[str]:
        """How the attempts of a run ended, oldest first."""
        return [record.cause for record in self.run_dir(run_id).read_attempts()]

    def stop(self, run_id: str) -> None:
        """What a backend does to cancel a job."""
        path = self.run_dir(run_id).stop_path(self.manifest.token(run_id))
        path.parent.mkdir(exist_ok=True)
        path.touch()
