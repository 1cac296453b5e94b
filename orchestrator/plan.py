"""What to do next about each run: evidence in, actions out. Pure; every rule about retrying is here.

A run's state is derived from evidence and never guessed. The order of trust: a result file, then what the backend says
of the job, then what the launcher and the trainer wrote. Silence decides only after its deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.experiment import Retries
from orchestrator.state import Cause, JobState, RunState
from trainers.rundir import AttemptRecord, Phase, Status, StopReason

#: An intent to submit is the business of the controller that wrote it, for as long as that may take.
INTENT_DEADLINE_S = 60.0


@dataclass(frozen=True)
class EndedJob:
    """What the past says: how a job of the run ended and what it brought."""

    cause: Cause
    first_step: int
    last_step: int
    stop_requested: bool = False


@dataclass(frozen=True)
class LivingJob:
    """A job that may live, with the newest picture of it.

    Attributes:
        age_s: seconds since the intent was written.
        is_submitted: the backend's answer to the submission was recorded.
        is_owner_alive: the controller that wrote the intent may still be about to submit it.
        state: what the backend says now.
        absent_s: seconds since the backend first did not know it; None if it knows it.
    """

    token: str
    state: JobState
    age_s: float
    is_submitted: bool
    is_owner_alive: bool
    absent_s: float | None = None
    stop_requested: bool = False


@dataclass(frozen=True)
class Evidence:
    """What stands in the run directory.

    Attributes:
        has_result: there is a result, with every protocol that the job was given.
        is_asked_more: by now, a protocol is asked for that the result lacks.
        attempt: record of the job's newest attempt; None if its launcher has not begun one.
        status: the trainer's status, whichever attempt wrote it.
    """

    has_result: bool = False
    is_asked_more: bool = False
    attempt: AttemptRecord | None = None
    status: Status | None = None


@dataclass(frozen=True)
class RunPicture:
    """Everything known of one run at one moment."""

    run_id: str
    state: RunState
    evidence: Evidence = field(default_factory=Evidence)
    job: LivingJob | None = None
    history: Sequence[EndedJob] = ()


@dataclass(frozen=True)
class Move:
    """Record that the run is now in this state."""

    run_id: str
    state: RunState
    reason: str = ""


@dataclass(frozen=True)
class EndJob:
    """Record that the job has ended, and where that leaves the run."""

    run_id: str
    token: str
    cause: Cause
    detail: str
    first_step: int
    last_step: int
    next_state: RunState
    reason: str


@dataclass(frozen=True)
class Absent:
    """Record since when the backend does not know the job; None: it knows it again."""

    token: str
    seconds: float | None


@dataclass(frozen=True)
class Revoke:
    """Make sure that an absent job can never start, then end it."""

    end: EndJob


Action = Move | EndJob | Absent | Revoke


def decide(run: RunPicture, retries: Retries, absence_deadline_s: float) -> list[Action]:
    """What follows from the picture of a run. Submitting is decided elsewhere, because it needs room.

    Args:
        absence_deadline_s: how long a backend may not know a job before it is gone.
    """
    job = run.job
    if run.evidence.has_result:
        if job is None:
            return [] if run.state is RunState.COMPLETED else [Move(run.run_id, RunState.COMPLETED)]
        if job.state in (JobState.ENDED, JobState.ABSENT):
            if run.evidence.is_asked_more:
                return [_end(run, job, Cause.DONE, "", RunState.PREEMPTED, "its evaluation has changed")]
            return [_end(run, job, Cause.DONE, "", RunState.COMPLETED, "")]
        return []  # its processes are still leaving; their cores and GPUs are not free yet
    if job is None:
        return []
    if job.state is JobState.UNKNOWN:
        return []
    if job.state is JobState.ABSENT:
        return _absent(run, job, absence_deadline_s)
    actions: list[Action] = [] if job.absent_s is None else [Absent(job.token, None)]
    if job.state is JobState.ENDED:
        cause, detail, is_permanent = cause_of_end(run.evidence)
        next_state, reason = after_end(cause, detail, is_permanent, run, job, retries)
        return [*actions, _end(run, job, cause, detail, next_state, reason)]
    seen = RunState.RUNNING if job.state is JobState.RUNNING else RunState.QUEUED
    if run.state is not seen:
        actions.append(Move(run.run_id, seen))
    return actions


def _absent(run: RunPicture, job: LivingJob, deadline_s: float) -> list[Action]:
    if not job.is_submitted and job.is_owner_alive and job.age_s < INTENT_DEADLINE_S:
        return []
    if job.absent_s is None:
        return [Absent(job.token, 0.0)]
    if job.absent_s < deadline_s:
        return []
    if run.evidence.attempt is None:
        # It never started: nothing was lost, and no budget pays for it.
        return [Revoke(_end(run, job, Cause.LOST, "never started", RunState.PLANNED, ""))]
    cause, detail, _ = cause_of_end(run.evidence)
    return [Revoke(_end(run, job, cause, detail, RunState.LOST if cause is Cause.LOST else RunState.PREEMPTED, detail))]


def cause_of_end(evidence: Evidence) -> tuple[Cause, str, bool]:
    """Why an attempt ended, one sentence of detail, and whether another attempt would end in the same way."""
    attempt, status = evidence.attempt, evidence.status
    if attempt is None:
        return Cause.FAILED, "the launcher ended before it began; see launcher.log in the run directory", False
    is_ours = status is not None and status.attempt == attempt.number
    reason = status.reason if status is not None and is_ours and status.phase is Phase.STOPPED else None
    if attempt.ended is not None:
        is_permanent = reason is not None and reason.is_permanent
        return Cause(attempt.cause), attempt.detail, is_permanent
    if reason is StopReason.PREEMPTED:
        return Cause.LOST, "the launcher was killed; the trainer saved its state and left", False
    return Cause.LOST, "the launcher was killed", False


def after_end(
    cause: Cause, detail: str, is_permanent: bool, run: RunPicture, job: LivingJob, retries: Retries
) -> tuple[RunState, str]:
    """Where the end of an attempt leaves its run, and the reason to show."""
    if job.stop_requested and cause in (Cause.PREEMPTED, Cause.CANCELLED, Cause.LOST):
        return RunState.PREEMPTED, "stopped on request; its state is saved"
    if is_permanent:
        return RunState.FAILED, detail
    first_step, last_step = _steps(run.evidence)
    history = [ended for ended in run.history if not ended.stop_requested]
    used = sum(ended.cause is cause for ended in history) + 1
    budget = retries.budget(cause)
    given_up = RunState.LOST if cause is Cause.LOST else RunState.FAILED
    if used > budget:
        return given_up, detail if budget == 0 else f"{detail} (attempt {used}; retries.{cause}={budget} are used up)"
    idle = _idle_in_a_row(history) + 1 if last_step <= first_step else 0
    if idle >= retries.without_progress:
        return given_up, f"{detail} ({idle} attempts in a row brought no new step)"
    return RunState.PREEMPTED, detail


def _idle_in_a_row(history: Sequence[EndedJob]) -> int:
    count = 0
    for ended in reversed(history):
        if ended.last_step > ended.first_step:
            break
        count += 1
    return count


def _steps(evidence: Evidence) -> tuple[int, int]:
    attempt, status = evidence.attempt, evidence.status
    if attempt is None:
        return 0, 0
    if attempt.ended is not None:
        return attempt.first_step, attempt.last_step
    is_ours = status is not None and status.attempt == attempt.number
    return attempt.first_step, status.step if status is not None and is_ours else attempt.first_step


def _end(run: RunPicture, job: LivingJob, cause: Cause, detail: str, next_state: RunState, reason: str) -> EndJob:
    first_step, last_step = _steps(run.evidence)
    return EndJob(run.run_id, job.token, cause, detail, first_step, last_step, next_state, reason)
