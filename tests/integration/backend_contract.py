"""What every backend keeps, whatever runs the jobs. A test class of each backend inherits these and names its site."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from orchestrator.backends.base import Backend, Job, JobRequest, JobShape, Sighting, Terms
from orchestrator.state import JobState
from tests.conftest import TINY
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.rundir import RunDir, atomic

SHAPE = JobShape()


class BackendSite(ABC):
    """A workspace, and a backend that can be left and made again, as controllers come and go."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.backend = self.new_backend()

    @abstractmethod
    def new_backend(self) -> Backend:
        """Another controller's."""

    @abstractmethod
    def terms(self) -> Terms:
        """Options with which a job may start at once."""

    def request(self, epochs: int = 2) -> JobRequest:
        """A tiny run."""
        run_id = uuid.uuid4().hex[:12]
        run_dir = RunDir(self.workspace / "runs" / run_id)
        run_dir.path.mkdir(parents=True)
        config = {**json.loads(json.dumps(TINY)), "train": {**TINY["train"], "epochs": epochs}}
        spec = {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "config": RunConfig.model_validate(config).model_dump(mode="json"),
            "provenance": {},
        }
        atomic.write_json(run_dir.spec_path, spec)
        (admitted,) = self.backend.admit(
            [JobRequest(f"{run_id}-{uuid.uuid4().hex[:12]}", run_id, run_dir.path, SHAPE)], [], self.terms()
        )
        return admitted

    def submit(self, request: JobRequest) -> Job:
        job_ids = self.backend.submit([request], self.terms())
        return Job(request.token, job_ids[request.token], request.run_dir, request.shape, request.devices)

    def look(self, job: Job, backend: Backend | None = None) -> Sighting:
        return (backend or self.backend).poll([job])[job.token]

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.1)


def unsubmitted(request: JobRequest) -> Job:
    """As a controller sees a job whose submission it knows nothing of."""
    return Job(request.token, "", request.run_dir, request.shape, request.devices)


class BackendContract:
    """Tests of the protocol :class:`orchestrator.backends.base.Backend`."""

    def test_a_small_shape_has_no_problems(self, site: BackendSite) -> None:
        assert site.backend.problems(SHAPE, site.terms()) == []

    def test_what_would_be_executed_can_be_shown(self, site: BackendSite) -> None:
        request = site.request()
        assert "orchestrator" in site.backend.render(request, site.terms())

    def test_a_token_that_is_submitted_twice_starts_one_job(self, site: BackendSite) -> None:
        request = site.request()
        assert site.look(unsubmitted(request)).state is JobState.ABSENT
        job = site.submit(request)
        assert job.job_id
        site.wait_for(lambda: site.look(job).state is JobState.RUNNING)
        site.submit(request)
        seen = {JobState.RUNNING}
        while JobState.ENDED not in seen:
            site.wait_for(lambda: site.look(job).state not in seen)
            seen.add(site.look(job).state)
        run_dir = RunDir(job.run_dir)
        assert run_dir.is_complete()
        (attempt,) = run_dir.read_attempts()
        assert (attempt.token, attempt.backend, attempt.cause) == (request.token, site.backend.name, "done")

    def test_another_controller_finds_the_job_by_its_token(self, site: BackendSite) -> None:
        request = site.request(epochs=500)
        job = site.submit(request)
        site.wait_for(lambda: site.look(job).state is JobState.RUNNING)
        seen = site.look(unsubmitted(request), site.new_backend())
        assert seen == site.look(job)
        assert seen.job_id
        self.stop(site, job)

    def test_stopping_twice_saves_the_state_once(self, site: BackendSite) -> None:
        job = site.submit(site.request(epochs=500))
        run_dir = RunDir(job.run_dir)
        site.wait_for(lambda: (status := run_dir.read_status()) is not None and status.step > 2)
        self.stop(site, job)
        (attempt,) = run_dir.read_attempts()
        assert (attempt.cause, attempt.exit_code) == ("preempted", 75)
        assert attempt.last_step > 2
        assert len(run_dir.checkpoint_dirs()) >= 1
        site.backend.cancel([job])
        assert site.look(job).state is JobState.ENDED

    def test_what_is_revoked_never_starts(self, site: BackendSite) -> None:
        request = site.request()
        assert site.backend.revoke(unsubmitted(request))
        job = site.submit(request)
        site.wait_for(lambda: site.look(job).state is JobState.ENDED)
        assert RunDir(request.run_dir).attempt_numbers() == []

    @staticmethod
    def stop(site: BackendSite, job: Job) -> None:
        site.backend.cancel([job])
        site.backend.cancel([job])
        site.wait_for(lambda: site.look(job).state is JobState.ENDED)
