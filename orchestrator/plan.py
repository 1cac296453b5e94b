"""What to do next about each run: evidence in, actions out. Pure; every rule about retrying is here.

A run's state is derived from evidence and never guessed. The order of trust: a result file, then what the backend says
of the job, then what the launcher and the trainer wrote. Silence decides only after its deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator.retry import Budgets, EndedAttempt, Ending, after_end, ending_of, steps_of
from orchestrator.state import Cause, JobState, RunState
from trainers.rundir import AttemptRecord, Phase, Status

#: An intent to submit is the business of the controller that wrote it, for as long as that may take.
INTENT_DEADLINE_S = 60.0

#: Of an intent whose controller died nobody knows whether it was submitted. To wait for it saves at most a job in vain:
#: once it is revoked, a job that comes late finds the claim taken, and leaves.
ORPHAN_DEADLINE_S = 20.0

#: A trainer that has said nothing for so long is not believed to live. It speaks every few seconds, but an evaluation
#: or a suspended job may be silent for minutes.
SILENCE_DEADLINE_S = 900.0


@dataclass(frozen=True)
class LivingJob:
    """A job that may live, with the newest picture of it.

    Attributes:
        age_s: seconds since the intent was written.
        is_submitted: the backend's answer to the submission was recorded.
        is_owner_alive: the controller that wrote the intent may still be about to submit it.
        state: what the backend says now.
        absent_s: seconds since the backend first did not know it; None if it knows it.
        seen: how it ended, where the backend knows.
    """

    token: str
    state: JobState
    age_s: float
    is_submitted: bool
    is_owner_alive: bool
    absent_s: float | None = None
    stop_requested: bool = False
    seen: Ending | None = None


@dataclass(frozen=True)
class Evidence:
    """What stands in the run directory.

    Attributes:
        has_result: there is a result, with every protocol that the job was given.
        is_asked_more: by now, a protocol is asked for that the result lacks.
        attempt: record of the job's newest attempt; None if its launcher has not begun one.
        status: the trainer's status, whichever attempt wrote it.
        silent_s: seconds since the trainer wrote its status; None if it has not.
        ended_early: why a search has ended the job before the run's last step; empty if none has.
    """

    has_result: bool = False
    is_asked_more: bool = False
    attempt: AttemptRecord | None = None
    status: Status | None = None
    silent_s: float | None = None
    ended_early: str = ""

    @property
    def is_speaking(self) -> bool:
        """Whether the job's newest attempt is not over and its trainer, heard of lately, has not said its last word."""
        if self.attempt is None or self.attempt.ended is not None or self.status is None:
            return False
        is_at_work = self.status.attempt == self.attempt.number and self.status.phase is not Phase.STOPPED
        return is_at_work and self.silent_s is not None and self.silent_s < SILENCE_DEADLINE_S


@dataclass(frozen=True)
class RunPicture:
    """Everything known of one run at one moment."""

    run_id: str
    state: RunState
    evidence: Evidence = field(default_factory=Evidence)
    job: LivingJob | None = None
    history: Sequence[EndedAttempt] = ()


@dataclass(frozen=True)
class Move:
    """Record that the run is now in this state, because of the job ``token`` if there is one."""

    run_id: str
    state: RunState
    reason: str = ""
    token: str = ""


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


def decide(run: RunPicture, budgets: Budgets, absence_deadline_s: float) -> list[Action]:
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
        return _absent(run, job, budgets, absence_deadline_s)
    actions: list[Action] = [] if job.absent_s is None else [Absent(job.token, None)]
    if job.state is JobState.ENDED:
        return [*actions, _ended(run, job, budgets)]
    seen = RunState.RUNNING if job.state is JobState.RUNNING else RunState.QUEUED
    if run.state is not seen:
        actions.append(Move(run.run_id, seen, token=job.token))
    return actions


def _ended(run: RunPicture, job: LivingJob, budgets: Budgets) -> EndJob:
    attempt, status = run.evidence.attempt, run.evidence.status
    if run.evidence.ended_early:
        return _end(run, job, Cause.DONE, run.evidence.ended_early, RunState.COMPLETED, run.evidence.ended_early)
    end = ending_of(attempt, status, job.seen)
    if end.cause is Cause.CANCELLED and job.stop_requested and attempt is None:
        return _end(run, job, end.cause, end.detail, RunState.PLANNED, "")  # it was still waiting
    steps = steps_of(attempt, status)
    next_state, reason = after_end(end, steps, run.history, budgets, stop_requested=job.stop_requested)
    return _end(run, job, end.cause, end.detail, next_state, reason)


def _absent(run: RunPicture, job: LivingJob, budgets: Budgets, deadline_s: float) -> list[Action]:
    if not job.is_submitted and job.is_owner_alive and job.age_s < INTENT_DEADLINE_S:
        return []
    if job.absent_s is None:
        return [Absent(job.token, 0.0)]
    is_orphan = not job.is_submitted and not job.is_owner_alive
    if job.absent_s < (min(deadline_s, ORPHAN_DEADLINE_S) if is_orphan else deadline_s):
        return []
    if run.evidence.attempt is None:
        # It never started: nothing was lost, and no budget pays for it.
        return [Revoke(_end(run, job, Cause.LOST, "never started", RunState.PLANNED, ""))]
    if run.evidence.is_speaking:
        return []  # the scheduler has forgotten a job that lives; its processes are believed
    end = _ended(run, job, budgets)
    if end.cause is Cause.LOST and not job.stop_requested:
        return [Revoke(replace(end, next_state=RunState.LOST, reason=end.detail))]
    return [Revoke(end)]


def _end(run: RunPicture, job: LivingJob, cause: Cause, detail: str, next_state: RunState, reason: str) -> EndJob:
    first_step, last_step = steps_of(run.evidence.attempt, run.evidence.status)
    return EndJob(run.run_id, job.token, cause, detail, first_step, last_step, next_state, reason)
