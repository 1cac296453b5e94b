"""Stand-ins for what a unit test cannot have: a scheduler whose every answer the test decides, and a clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.backends.base import Job, JobRequest, JobShape, Refused, Sighting, Terms
from orchestrator.errors import EnvironmentProblem
from orchestrator.state import Cause, JobState


class FakeClock:
    """Time that the test turns forward."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class FakeScheduler:
    """A backend whose jobs exist only as states. It outlives controllers, as a real scheduler does.

    Attributes:
        jobs: token -> state of every job that was accepted.
        submissions: tokens in the order in which they were accepted, with repetitions.
        refuses: raise instead of accepting jobs.
        room: jobs that a submission accepts; the others it says to be not taken.
        says_no: refuse what is beyond the room with an error.
        causes: token -> why the job ended, where the scheduler knows.
        answers: whether a poll is answered at all.
        logs: token -> what its job prints.
    """

    name = "local"
    absence_deadline_s = 30.0
    poll_interval_s = 0.0
    needs_controller = False
    runs_here = False

    def __init__(self) -> None:
        self.jobs: dict[str, JobState] = {}
        self.revoked: set[str] = set()
        self.submissions: list[str] = []
        self.cancelled: list[str] = []
        self.refuses = False
        self.room: int | None = None
        self.says_no = False
        self.causes: dict[str, Cause] = {}
        self.answers = True
        self.logs: dict[str, Path] = {}

    def prepare(self, terms: Terms) -> None:
        pass

    def admit(self, candidates: Sequence[JobRequest], active: Sequence[Job], terms: Terms) -> list[JobRequest]:
        max_parallel = terms.options.max_parallel
        room = len(candidates) if max_parallel is None else max_parallel - len(active)
        return list(candidates[: max(0, room)])

    def render(self, request: JobRequest, terms: Terms) -> str:
        return request.token

    def submit(self, requests: Sequence[JobRequest], terms: Terms) -> Mapping[str, str]:
        if self.refuses:
            raise EnvironmentProblem("the scheduler does not answer")
        if self.room is not None:
            requests = requests[: self.room]
        for request in requests:
            self.submissions.append(request.token)
            self.jobs.setdefault(request.token, JobState.PENDING)
        job_ids = {request.token: f"job-{request.token}" for request in requests}
        if self.says_no:
            raise Refused("the partition does not exist", job_ids)
        return job_ids

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        if not self.answers:
            return {job.token: Sighting(JobState.UNKNOWN, job.job_id) for job in jobs}
        return {
            job.token: Sighting(
                self.jobs.get(job.token, JobState.ABSENT), f"job-{job.token}", self.causes.get(job.token)
            )
            for job in jobs
        }

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.cancelled += [job.token for job in jobs]

    def revoke(self, job: Job) -> bool:
        if job.token in self.jobs:
            return False
        self.revoked.add(job.token)
        return True

    def log_path(self, job: Job) -> Path | None:
        return self.logs.get(job.token)

    def dashboards(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        return {}

    def problems(self, shape: JobShape, terms: Terms) -> list[str]:
        return []
