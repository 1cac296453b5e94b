"""Stand-ins for what a unit test cannot have: a scheduler whose every answer the test decides, and a clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.backends.base import Job, JobRequest, JobShape
from orchestrator.errors import EnvironmentProblem
from orchestrator.state import JobState


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
        answers: whether a poll is answered at all.
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
        self.answers = True

    def admit(
        self, candidates: Sequence[JobRequest], active: Sequence[Job], max_parallel: int | None
    ) -> list[JobRequest]:
        room = len(candidates) if max_parallel is None else max_parallel - len(active)
        return list(candidates[: max(0, room)])

    def render(self, request: JobRequest) -> str:
        return request.token

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        if self.refuses:
            raise EnvironmentProblem("the scheduler does not answer")
        for request in requests:
            self.submissions.append(request.token)
            self.jobs.setdefault(request.token, JobState.PENDING)
        return {request.token: f"job-{request.token}" for request in requests}

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, tuple[JobState, str]]:
        if not self.answers:
            return {job.token: (JobState.UNKNOWN, job.job_id) for job in jobs}
        return {job.token: (self.jobs.get(job.token, JobState.ABSENT), f"job-{job.token}") for job in jobs}

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.cancelled += [job.token for job in jobs]

    def revoke(self, job: Job) -> bool:
        if job.token in self.jobs:
            return False
        self.revoked.add(job.token)
        return True

    def problems(self, shape: JobShape) -> list[str]:
        return []
