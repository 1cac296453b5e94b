"""What a job that needs no controller does next about each of its runs: evidence in, decision out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from orchestrator.launch.outcome import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE
from orchestrator.retry import Budgets, after_end, ending_of, past, steps_of
from orchestrator.state import Cause, RunState
from trainers.rundir import AttemptRecord, Status


class Step(Enum):
    """What to do about a run."""

    START = auto()
    """Start a launcher, at once."""
    REQUEUE = auto()
    """It can go on, but not in this start of the job: what it had is taken away, or is about to be."""
    DONE = auto()
    LEAVE = auto()
    """The user stopped or revoked it. Nobody but the user starts it again."""
    GIVE_UP = auto()
    """Its budget is spent, or trying again cannot help."""


@dataclass(frozen=True)
class Evidence:
    """What stands in the run directory.

    Attributes:
        is_stopped: nothing may be started for the submission any more.
        attempts: those that count, oldest first, whatever submission they belong to.
        status: the trainer's, whichever attempt wrote it.
        stopped: tokens of the submissions that the user stopped.
    """

    is_complete: bool
    is_stopped: bool
    attempts: Sequence[AttemptRecord] = ()
    status: Status | None = None
    stopped: Collection[str] = ()


def next_step(
    evidence: Evidence, token: str, budgets: Budgets, *, began_here: bool, is_ending: bool
) -> tuple[Step, str]:
    """What to do about a run for which nothing runs at the moment, and why, for people.

    Args:
        began_here: its newest attempt began in this start of the job.
        is_ending: the scheduler has asked the job itself to end.
    """
    if evidence.is_complete:
        return Step.DONE, "its result stands"
    if evidence.is_stopped:
        return Step.LEAVE, "it was stopped on request"
    state, reason = _after_newest(evidence, token, budgets)
    if state is not RunState.PREEMPTED:
        return Step.GIVE_UP, reason
    newest = evidence.attempts[-1] if evidence.attempts else None
    has_room_gone = began_here and newest is not None and newest.cause in (Cause.PREEMPTED, Cause.TIMEOUT)
    return (Step.REQUEUE if has_room_gone or is_ending else Step.START), reason


def _after_newest(evidence: Evidence, token: str, budgets: Budgets) -> tuple[RunState, str]:
    if not evidence.attempts or evidence.attempts[-1].token != token:
        return RunState.PREEMPTED, ""  # whoever submitted it has judged what was before
    *earlier, newest = evidence.attempts
    end, steps = ending_of(newest, evidence.status), steps_of(newest, evidence.status)
    return after_end(end, steps, past(earlier, evidence.stopped), budgets, stop_requested=False)


def exit_code(steps: Collection[Step]) -> int:
    """What the job leaves with: 0 all done, 75 some can go on, 1 some are given up and the others done."""
    if Step.REQUEUE in steps or Step.LEAVE in steps or Step.START in steps:
        return EXIT_RESUMABLE
    return EXIT_FAILED if Step.GIVE_UP in steps else EXIT_DONE
