"""States of a run, causes of an attempt's end, and the legal moves between states. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum


class RunState(StrEnum):
    """Where a run is. Derived from evidence, never guessed."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    PREEMPTED = "preempted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_active(self) -> bool:
        """Whether a job for the run exists or is being made."""
        return self in ACTIVE

    @property
    def is_terminal(self) -> bool:
        """Whether nothing moves the run on by itself."""
        return self in TERMINAL


ACTIVE = frozenset({RunState.SUBMITTING, RunState.QUEUED, RunState.RUNNING})
TERMINAL = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, RunState.LOST})

#: States from which a job may be submitted for a run that is wanted.
READY = frozenset({RunState.PLANNED, RunState.PREEMPTED})

_S = RunState
#: From each state, the states it may become. ``completed`` is reachable from everywhere: a result file is proof.
MOVES: dict[RunState, frozenset[RunState]] = {
    _S.PLANNED: frozenset({_S.SUBMITTING, _S.CANCELLED, _S.COMPLETED}),
    _S.SUBMITTING: frozenset(set(_S) - {_S.SUBMITTING}),
    _S.QUEUED: frozenset(set(_S) - {_S.SUBMITTING, _S.QUEUED}),
    _S.RUNNING: frozenset(set(_S) - {_S.SUBMITTING, _S.RUNNING, _S.PLANNED}),
    _S.PREEMPTED: frozenset({_S.SUBMITTING, _S.QUEUED, _S.RUNNING, _S.PLANNED, _S.CANCELLED, _S.COMPLETED, _S.FAILED}),
    _S.FAILED: frozenset({_S.PLANNED, _S.CANCELLED, _S.COMPLETED}),
    _S.CANCELLED: frozenset({_S.PLANNED, _S.COMPLETED}),
    _S.LOST: frozenset({_S.PLANNED, _S.CANCELLED, _S.COMPLETED}),
    _S.COMPLETED: frozenset({_S.PLANNED}),  # to be evaluated by further protocols
}


class Cause(StrEnum):
    """Why an attempt ended. Each has its own budget: ten preemptions are normal, ten crashes are not."""

    DONE = "done"
    FAILED = "failed"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    NODE_FAIL = "node_fail"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    LOST = "lost"


class JobState(StrEnum):
    """What a backend says of a job. A word that it does not know becomes UNKNOWN, which decides nothing."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    """Positive evidence that no process of the job lives and none will start."""
    ABSENT = "absent"
    """The backend answered and does not know the job. Evidence only when repeated (design: two misses)."""
    UNKNOWN = "unknown"
    """No answer, or one that cannot be read. Not evidence."""


def count_states(states: Iterable[RunState]) -> dict[RunState, int]:
    """How many runs are in each state, every state named, in the order of the enumeration."""
    counts = Counter(states)
    return {state: counts[state] for state in RunState}
