"""How an attempt ended, and whether its run is started again. Pure.

The controller decides by it, and so do jobs that must go on while no controller lives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from orchestrator.state import Cause, RunState
from trainers.rundir import AttemptRecord, Phase, Status, StopReason


class Budgets(Protocol):
    """How often a run is started again after each cause (the ``retries`` section of an experiment file)."""

    @property
    def without_progress(self) -> int:
        """Attempts in a row that bring no new step, after which a run is given up."""

    def budget(self, cause: Cause) -> int:
        """Restarts allowed after ``cause``."""


@dataclass(frozen=True)
class RetryBudgets:
    """Budgets in plain JSON, for jobs that decide by themselves: the section ``retries`` without its schema.

    Attributes:
        restarts: cause -> restarts allowed.
    """

    restarts: Mapping[str, int]
    without_progress: int

    @classmethod
    def of(cls, budgets: Budgets) -> Self:
        """The same budgets."""
        return cls({cause.value: budgets.budget(cause) for cause in Cause}, budgets.without_progress)

    def budget(self, cause: Cause) -> int:
        """Restarts allowed after ``cause``; none after one that is not named."""
        return self.restarts.get(cause.value, 0)


@dataclass(frozen=True)
class EndedAttempt:
    """What the past says: how an attempt of the run ended and what it brought."""

    cause: Cause
    first_step: int
    last_step: int
    stop_requested: bool = False


@dataclass(frozen=True)
class Ending:
    """Why an attempt ended.

    Attributes:
        detail: one sentence for the user.
        is_permanent: whether another attempt would end in the same way.
        moment: seconds since the Unix epoch; None where nobody noted it.
    """

    cause: Cause
    detail: str
    is_permanent: bool = False
    moment: float | None = None


def ending_of(attempt: AttemptRecord | None, status: Status | None, seen: Ending | None = None) -> Ending:
    """How the newest attempt of a job that has ended came to its end.

    Args:
        attempt: its record; None if its launcher has not begun one.
        status: the trainer's status, whichever attempt wrote it.
        seen: what the scheduler says, where it knows the cause.
    """
    if attempt is None:
        if seen is not None:
            return seen
        return Ending(Cause.FAILED, "the launcher ended before it began; `sweep logs RUN --job` shows why")
    is_ours = status is not None and status.attempt == attempt.number
    reason = status.reason if status is not None and is_ours and status.phase is Phase.STOPPED else None
    if attempt.ended is not None:
        if seen is not None and seen.cause is Cause.CANCELLED and attempt.cause == Cause.PREEMPTED:
            return seen  # to the launcher, a request to stop looks the same whoever it comes from
        return Ending(Cause(attempt.cause), attempt.detail, reason is not None and reason.is_permanent)
    if seen is not None:
        return seen
    if reason is StopReason.PREEMPTED:
        return Ending(Cause.LOST, "the launcher was killed; the trainer saved its state and left")
    return Ending(Cause.LOST, "the launcher was killed")


def steps_of(attempt: AttemptRecord | None, status: Status | None) -> tuple[int, int]:
    """Optimizer steps done when the attempt began and when it ended, as far as is known."""
    if attempt is None:
        return 0, 0
    if attempt.ended is not None:
        return attempt.first_step, attempt.last_step
    is_ours = status is not None and status.attempt == attempt.number
    return attempt.first_step, status.step if status is not None and is_ours else attempt.first_step


def past(attempts: Sequence[AttemptRecord], stopped: Collection[str] = ()) -> list[EndedAttempt]:
    """Records of attempts that are over, oldest first, as history. One that nobody closed was killed with its launcher.

    Args:
        stopped: tokens of the submissions that the user stopped. One that was requeued has several attempts: the stop
            ended its last.
    """
    last = {record.token: record.number for record in attempts}
    return [
        EndedAttempt(
            cause=Cause(record.cause) if record.cause else Cause.LOST,
            first_step=record.first_step,
            last_step=record.last_step,
            stop_requested=record.token in stopped and record.number == last[record.token],
        )
        for record in attempts
    ]


def after_end(
    end: Ending,
    steps: tuple[int, int],
    history: Sequence[EndedAttempt],
    budgets: Budgets,
    *,
    stop_requested: bool,
) -> tuple[RunState, str]:
    """Where the end of an attempt leaves its run, and the reason to show.

    Args:
        steps: optimizer steps done when the attempt began and when it ended.
        history: the attempts before it that count, oldest first.
        stop_requested: the user asked for this end.

    Returns:
        ``PREEMPTED`` if the run is to be started again.
    """
    if stop_requested and end.cause in (Cause.PREEMPTED, Cause.TIMEOUT, Cause.CANCELLED, Cause.LOST):
        return RunState.PREEMPTED, "stopped on request; its state is saved"
    if end.cause is Cause.CANCELLED:
        return RunState.CANCELLED, end.detail
    if end.is_permanent:
        return RunState.FAILED, end.detail
    counted = [ended for ended in history if not ended.stop_requested]
    used = sum(ended.cause is end.cause for ended in counted) + 1
    budget = budgets.budget(end.cause)
    given_up = RunState.LOST if end.cause is Cause.LOST else RunState.FAILED
    if used > budget:
        spent = f"{end.detail} (attempt {used}; retries.{end.cause}={budget} are used up)"
        return given_up, end.detail if budget == 0 else spent
    first_step, last_step = steps
    idle = _idle_in_a_row(counted) + 1 if last_step <= first_step else 0
    if idle >= budgets.without_progress:
        return given_up, f"{end.detail} ({idle} attempts in a row brought no new step)"
    return RunState.PREEMPTED, end.detail


def _idle_in_a_row(history: Sequence[EndedAttempt]) -> int:
    count = 0
    for ended in reversed(history):
        if ended.last_step > ended.first_step:
            break
        count += 1
    return count
