"""A sweep on Ray whose trainers are a stub, with Ray's own word for what became of each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus

from orchestrator.backends.ray.manifest import Manifest
from tests import trainer_stub
from tests.integration.ray.cluster import RayCluster
from tests.integration.stubbed_sweep import StubbedSweep


class RaySweep(StubbedSweep):
    """One experiment in a workspace of its own.

    Args:
        steps: of each run; the stub takes 0.02 s for one.
        address: where the controllers look for the cluster, if not at its own address.
    """

    def __init__(
        self, folder: Path, cluster: RayCluster, runs: int, *, steps: int = 1, address: str | None = None
    ) -> None:
        self.cluster = cluster
        self._address = address or cluster.address
        python = str(trainer_stub.python(folder / "stub"))
        options = {"name": "ray", "python": python, "runtime_env": {"py_executable": python}}
        super().__init__(folder, runs, steps=steps, backend=options)

    def environment(self) -> dict[str, str]:
        return {**self.cluster.environment(), "RAY_API_SERVER_ADDRESS": self._address}

    def manifests(self) -> list[Manifest]:
        """Of all jobs that were, or were about to be, submitted."""
        return [Manifest.read(path) for path in sorted((self.workspace / "ray").glob("*/manifest.json"))]

    def statuses_of_jobs(self) -> Mapping[str, list[JobStatus]]:
        """Run id -> status, by Ray, of every job that was to carry it out."""
        jobs = {job.submission_id: job.status for job in self.cluster.client.list_jobs()}
        found: dict[str, list[Any]] = {run_dir.path.name: [] for run_dir in self.run_dirs()}
        for manifest in self.manifests():
            for run_id in manifest.shapes:
                found[run_id] += [jobs[manifest.submission_id]] if manifest.submission_id in jobs else []
        return found

    def is_over_for_ray(self) -> bool:
        """Whether its jobs have ended: a driver does so a little later than its last run."""
        return all(status.is_terminal() for found in self.statuses_of_jobs().values() for status in found)

    def assert_no_job_was_in_vain(self) -> None:
        """Every run had exactly one job, which ended well."""
        statuses = self.statuses_of_jobs()
        assert all(found == [JobStatus.SUCCEEDED] for found in statuses.values()), f"{statuses}\n{self.output()}"
