"""``sweep logs``: print and follow the output of a run's ranks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from orchestrator.cli.session import Session
from orchestrator.errors import InputError
from orchestrator.ledger import RunRow
from trainers.rundir import RunDir


def print_logs(session: Session, prefix: str, *, follow: bool, rank: int, attempt: int | None) -> None:
    """Print one rank's log; with ``follow``, go on over new attempts until the run ends.

    Raises:
        InputError: no such run, attempt or rank.
    """
    run = find_run(session, prefix)
    run_dir = session.workspace.run_dir(run.run_id)
    numbers = run_dir.attempt_numbers()
    if not follow and not numbers:
        raise InputError(f"run {run.run_id} has not started yet (state: {run.state}), so it has printed nothing")
    if attempt is not None and attempt not in numbers:
        known = ", ".join(map(str, numbers)) or "none"
        raise InputError(f"run {run.run_id} has no attempt {attempt}; attempts: {known}")
    if not follow:
        _print_from(_log(run_dir, attempt or numbers[-1], rank), 0)
        return
    _follow(session, run_dir, run.run_id, rank, attempt)


def find_run(session: Session, prefix: str) -> RunRow:
    """The run whose id begins with ``prefix``.

    Raises:
        InputError: none, or more than one.
    """
    found = {row.run_id: row for row in session.ledger.find_runs(prefix)}
    if not found:
        raise InputError(f"no run begins with {prefix!r} in {session.workspace.path}; `sweep status` lists them")
    if len(found) > 1:
        raise InputError(f"{prefix!r} is the beginning of {len(found)} runs ({', '.join(sorted(found)[:5])}, …)")
    return next(iter(found.values()))


def _log(run_dir: RunDir, attempt: int, rank: int) -> Path:
    path = run_dir.rank_log_path(attempt, rank)
    if path.exists():
        return path
    # Before the ranks start, and when they never do, the launcher's log tells why.
    fallback = run_dir.launcher_log_path(attempt)
    if rank == 0 and fallback.exists():
        return fallback
    raise InputError(f"attempt {attempt} has no output of rank {rank} ({path} does not exist)")


def _print_from(path: Path, position: int) -> int:
    with path.open("rb") as file:
        file.seek(position)
        while chunk := file.read(1 << 16):
            sys.stdout.buffer.write(chunk)
            position += len(chunk)
    sys.stdout.flush()
    return position


def _follow(session: Session, run_dir: RunDir, run_id: str, rank: int, attempt: int | None) -> None:
    positions: dict[int, int] = {}
    while True:
        is_ended = not session.ledger.states([run_id])[run_id].is_active
        numbers = [attempt] if attempt is not None else run_dir.attempt_numbers()[-1:]
        for number in numbers:
            path = run_dir.rank_log_path(number, rank)
            if path.exists():
                if positions and number not in positions:
                    sys.stdout.write(f"--- attempt {number} ---\n")
                positions[number] = _print_from(path, positions.get(number, 0))
        if is_ended:
            return
        time.sleep(0.5)
