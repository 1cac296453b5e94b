"""Ray's words for a job, Tune's for a trial, and what both together mean for us. Pure, and total."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.backends.ray.board import TrialNote
from orchestrator.errors import last_line
from orchestrator.launch.outcome import EXIT_RESUMABLE
from orchestrator.state import Cause, JobState


@dataclass(frozen=True)
class RayJob:
    """A job in the answer of Ray's Jobs API.

    Attributes:
        status: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``.
        message: Ray's own, of any length.
        error_type: what failed where the job itself did not, such as its runtime environment; empty if nothing did.
        exit_code: of the entrypoint; None while it runs, and where nobody saw its end.
        ended: seconds since the Unix epoch; None while it is not over.
    """

    submission_id: str
    status: str
    message: str = ""
    error_type: str = ""
    exit_code: int | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Meaning:
    """What a run's job and trial say of it.

    Attributes:
        cause: why it ended. None if it has not, or if the run directory knows better.
        note: for people; empty if the state alone says it.
    """

    state: JobState
    cause: Cause | None = None
    note: str = ""


_ENDED = Meaning(JobState.ENDED)
_WAITING = frozenset({"PENDING", "PAUSED"})
_OVER = frozenset({"TERMINATED", "ERROR"})
_MAX_NOTE = 300
_CAUSES = frozenset(cause.value for cause in Cause)


def meaning(job: RayJob | None, trial: TrialNote | None) -> Meaning:
    """What is known of a run.

    Args:
        job: the Ray job that carries it; None if the cluster answered and has none.
        trial: what the driver last wrote of it; None if it has written nothing.
    """
    if job is None:
        return Meaning(JobState.ABSENT)
    word = job.status.upper()
    if word == "PENDING":
        return Meaning(JobState.PENDING, note=_first_line(job.message) or "its driver is to be started")
    if word == "RUNNING":
        return _of_trial(trial)
    if word not in ("STOPPED", "SUCCEEDED", "FAILED"):
        return Meaning(JobState.UNKNOWN, note=f"Ray says {job.status!r} of its job, which is not known")
    if trial is not None and trial.status.upper() in _OVER:
        return _of_trial(trial)
    if word == "STOPPED":
        return Meaning(JobState.ENDED, Cause.CANCELLED, "its Ray job was stopped")
    if trial is not None and trial.status.upper() not in _WAITING:
        return Meaning(JobState.ENDED, note=f"its driver is gone: {_first_line(job.message)}")
    return Meaning(JobState.ENDED, _cause_of_driver(job), _end_of_driver(job))


def _of_trial(trial: TrialNote | None) -> Meaning:
    if trial is None:
        return Meaning(JobState.PENDING, note="waits in its driver's queue")
    word = trial.status.upper()
    if word in _WAITING:
        return Meaning(JobState.PENDING, note=trial.note)
    if word == "RUNNING":
        return Meaning(JobState.RUNNING, note=trial.note)
    if word in _OVER:
        # Where the driver knows no cause, the run directory says how it ended, and says it better.
        return Meaning(JobState.ENDED, Cause(trial.cause), trial.note) if trial.cause in _CAUSES else _ENDED
    return Meaning(JobState.UNKNOWN, note=f"Tune says {trial.status!r} of its trial, which is not known")


def _cause_of_driver(job: RayJob) -> Cause:
    """Why a driver ended before a run had its turn. What would happen again and again must count against a budget."""
    # From 128 on the shell names the signal that killed it.
    has_failed = job.exit_code is not None and 0 <= job.exit_code < 128 and job.exit_code != EXIT_RESUMABLE
    return Cause.FAILED if has_failed or _is_environment_at_fault(job) else Cause.LOST


def _is_environment_at_fault(job: RayJob) -> bool:
    return "RUNTIME_ENV" in job.error_type.upper()


def _end_of_driver(job: RayJob) -> str:
    if job.status.upper() == "SUCCEEDED":
        return "its driver ended and left it out"
    if _is_environment_at_fault(job):
        return f"backend.runtime_env could not be set up: {last_line(job.message, _MAX_NOTE)}"
    return f"its driver ended before it began: {_first_line(job.message) or 'Ray does not say why'}"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line.partition(", last available logs")[0][:_MAX_NOTE]
