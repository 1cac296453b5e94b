"""What became of an attempt, read from the run directory. torchrun's exit code says nothing: it is 1 for everything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.state import Cause
from trainers.rundir import Phase, RunDir, Status, StopReason

#: Exit codes that launcher and backends agree on. 75 is the shell's EX_TEMPFAIL: try again.
EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_RESUMABLE = 75

_TAIL_BYTES = 16384


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        exit_code: 0 when the result stands, 75 when the run can go on, 1 on failure.
        detail: one sentence for the user; empty when there is nothing to say.
    """

    exit_code: int
    cause: Cause
    detail: str


@dataclass(frozen=True)
class Stop:
    """A request to stop that reached the launcher.

    Attributes:
        by: name of the signal, or what else asked.
        is_time_limit: it was asked because the job's time is nearly over.
    """

    by: str
    is_time_limit: bool = False


def judge(run_dir: RunDir, attempt: int, stop: Stop | None, *, is_out_of_memory: bool = False) -> Outcome:
    """The outcome of an attempt whose processes have all ended.

    Args:
        stop: the request to stop, if the launcher got one.
        is_out_of_memory: the kernel killed processes of this node for want of memory.
    """
    if run_dir.is_complete():
        return Outcome(EXIT_DONE, Cause.DONE, "")
    status = run_dir.read_status()
    stopped = status if status is not None and status.attempt == attempt and status.phase is Phase.STOPPED else None
    if stopped is not None and stopped.reason is not None and stopped.reason.is_permanent:
        return Outcome(EXIT_FAILED, Cause.FAILED, f"{stopped.reason}: {stopped.message}")
    if stop is not None and stop.is_time_limit:
        return Outcome(EXIT_RESUMABLE, Cause.TIMEOUT, "stopped because the time limit is near")
    if stop is not None:
        return Outcome(EXIT_RESUMABLE, Cause.PREEMPTED, f"stopped by {stop.by}")
    if stopped is not None and stopped.reason is StopReason.PREEMPTED:
        return Outcome(EXIT_RESUMABLE, Cause.PREEMPTED, stopped.message)
    why = _why_it_failed(run_dir, attempt, stopped)
    if is_out_of_memory:
        return Outcome(EXIT_FAILED, Cause.OUT_OF_MEMORY, f"more memory was needed than there is: {why}")
    return Outcome(EXIT_FAILED, Cause.FAILED, why)


def saved_steps(run_dir: RunDir) -> int:
    """Steps that no kill can take away any more: those of the result, else of the newest checkpoint."""
    result = run_dir.read_result()
    if result is not None:
        return result.steps
    checkpoints = run_dir.checkpoint_dirs()
    return int(checkpoints[0].name.removeprefix("step_")) if checkpoints else 0


def _why_it_failed(run_dir: RunDir, attempt: int, stopped: Status | None) -> str:
    failures = run_dir.read_rank_failures(attempt)
    if failures:
        return f"{failures[0].reason}: {failures[0].message}"
    if stopped is not None:
        return f"{stopped.reason}: {stopped.message}"
    last_words = last_line(run_dir.launcher_log_path(attempt))
    return f"torchrun ended without a result: {last_words}" if last_words else "torchrun ended without a word"


def last_line(log_path: Path) -> str:
    """The last line of a log that is not empty; empty without one."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log_path.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
