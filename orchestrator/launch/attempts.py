"""Records of attempts: opened by a launcher, and closed by it or, if it was killed, by whoever starts the run again."""

from __future__ import annotations

import fcntl
import time
from dataclasses import replace

from orchestrator.launch.outcome import saved_steps
from orchestrator.retry import Ending, ending_of
from trainers.rundir import AttemptRecord, RunDir, atomic


def open_attempt_dir(run_dir: RunDir) -> int:
    """Create the folder of the next attempt, and return its number; of two at once, each gets its own."""
    while True:
        number = max(run_dir.attempt_numbers(), default=0) + 1
        try:
            run_dir.attempt_dir(number).mkdir(parents=True)
            return number
        except FileExistsError:
            continue


def close_attempt(run_dir: RunDir, record: AttemptRecord, end: Ending, exit_code: int | None = None) -> AttemptRecord:
    """Write how an attempt ended, and what it saved.

    Args:
        exit_code: of its launcher; None if it was killed.
    """
    closed = replace(
        record,
        ended=end.moment or time.time(),
        exit_code=exit_code,
        cause=str(end.cause),
        detail=end.detail,
        last_step=saved_steps(run_dir),
    )
    atomic.write_json(run_dir.attempt_path(record.number), closed.to_json())
    return closed


def close_forsaken(run_dir: RunDir) -> None:
    """Close what launchers left open that were killed with everything that could have closed it for them.

    Whoever is about to open an attempt calls it: what the forsaken ones saved is then known to count as their progress.
    """
    for record in run_dir.read_attempts():
        if record.ended is None:
            status = run_dir.read_status()
            is_witness = status is not None and status.attempt == record.number
            heartbeat = status.heartbeat if status is not None and is_witness else None
            close_attempt(run_dir, record, replace(ending_of(record, status), moment=heartbeat))


def wait_for_writer(run_dir: RunDir, timeout_s: float) -> bool:
    """Wait until no trainer of a killed launcher writes any more: it checkpoints before it ends. False if it goes on.

    Where the file system knows no locks there is nothing to wait for.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with run_dir.lock_path.open("rb") as lock:
            while True:
                try:
                    fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                time.sleep(0.1)  # the kernel wakes waiters for a lock, but not after a time
    except OSError:
        return True
