"""``sweep logs``: print and follow what a run's ranks, or its job, have printed.

Files are read by opening them anew each time: on a network file system that is what makes another node's writes seen,
and nothing there tells of changes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from orchestrator.backends.base import Unreachable
from orchestrator.cli.session import Session
from orchestrator.errors import InputError
from orchestrator.ledger import JobRow, RunRow, Wanted
from orchestrator.state import READY, RunState
from trainers.rundir import RunDir

#: Seconds between two looks at a file that is followed.
_LOOK_S = 0.5


def print_logs(session: Session, prefix: str, *, follow: bool, rank: int, attempt: int | None, of_job: bool) -> None:
    """Print one rank's log, or that of the job; with ``follow``, go on over new attempts until the run ends.

    Raises:
        InputError: no such run, attempt or rank, or it has printed nothing.
    """
    run = find_run(session, prefix)
    if of_job:
        _print_job_log(session, run, follow=follow)
        return
    run_dir = session.workspace.run_dir(run.run_id)
    numbers = run_dir.attempt_numbers()
    if attempt is not None and attempt not in numbers:
        known = ", ".join(map(str, numbers)) or "none"
        raise InputError(f"run {run.run_id} has no attempt {attempt}; attempts: {known}")
    if follow:
        _follow(session, run, run_dir, rank, attempt)
        return
    if not numbers:
        if _offer_job_log(session, run):
            return
        raise InputError(f"run {run.run_id} has not started yet (state: {run.state}), so it has printed nothing")
    _print_from(_log(run_dir, attempt or numbers[-1], rank), 0)
    if attempt is None:
        _say_if_newest_job_began_nothing(session, run, run_dir)


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


def job_log_path(session: Session, job: JobRow) -> Path | None:
    """Where what the backend started for ``job`` prints, outside of any attempt; None if there is nothing yet.

    On this machine that is the launcher; on SLURM the batch script, with the profile's setup lines; on Ray the launcher
    and, before there is one, the driver.
    """
    run_dir = session.workspace.run_dir(job.run_id).path
    return session.controller.backend(job.backend).log_path(job.as_job(run_dir))


def _newest_job(session: Session, run: RunRow) -> JobRow | None:
    return next(reversed(session.ledger.jobs_of(run.run_id)), None)


def _print_job_log(session: Session, run: RunRow, *, follow: bool) -> None:
    watching = _Watching(session, run.run_id)
    position, shown = 0, None
    while True:
        is_over = not follow or watching.is_over()
        job = _newest_job(session, run)
        path = None if job is None else job_log_path(session, job)
        if path is not None:
            position = _print_from(path, position if path == shown else 0)
            shown = path
        if is_over:
            break
        time.sleep(_LOOK_S)
    if shown is None:
        raise InputError(f"run {run.run_id} has no job that has printed anything (state: {run.state})")


def _offer_job_log(session: Session, run: RunRow) -> bool:
    """Print the newest job's log if it holds anything: a job that began no attempt says only there what happened."""
    job = _newest_job(session, run)
    path = None if job is None else job_log_path(session, job)
    if job is None or path is None or path.stat().st_size == 0:
        return False
    _say(f"run {run.run_id} has begun no attempt; this is what its job {job.job_id} printed ({path}):")
    _print_from(path, 0)
    return True


def _say_if_newest_job_began_nothing(session: Session, run: RunRow, run_dir: RunDir) -> None:
    job = _newest_job(session, run)
    if job is None or job.ended is None or run.state is RunState.COMPLETED:
        return
    if all(record.token != job.token for record in run_dir.read_attempts()) and job_log_path(session, job) is not None:
        _say(f"its newest job ({job.job_id}) began no attempt; `sweep logs {run.run_id} --job` shows what it printed")


def _say(message: str) -> None:
    # Apart from the log itself, which may go into a pipe.
    sys.stdout.flush()
    sys.stderr.write(f"sweep: {message}\n")
    sys.stderr.flush()


def _log(run_dir: RunDir, attempt: int, rank: int) -> Path:
    path = run_dir.rank_log_path(attempt, rank)
    if path.exists():
        return path
    # Before the ranks start, and when they never do, the launcher's log tells why.
    fallback = run_dir.launcher_log_path(attempt)
    if rank == 0 and fallback.exists():
        return fallback
    record = run_dir.read_attempt(attempt)
    if rank == 0 and record is not None and record.detail:
        raise InputError(f"attempt {attempt} has printed nothing: {record.detail}; `--job` shows what its job printed")
    raise InputError(f"attempt {attempt} has no output of rank {rank} ({path} does not exist)")


def _print_from(path: Path, position: int) -> int:
    with path.open("rb") as file:
        file.seek(position)
        while chunk := file.read(1 << 16):
            sys.stdout.buffer.write(chunk)
            position += len(chunk)
    sys.stdout.flush()
    return position


class _Watching:
    """Whether a run still goes on. Looks at its jobs itself, because there may be no controller that does."""

    def __init__(self, session: Session, run_id: str) -> None:
        self._session = session
        self._run_id = run_id
        self._next_look = 0.0
        self._said = ""

    def is_over(self) -> bool:
        """Whether nothing more is printed without the user."""
        run = self._look()
        experiment = self._session.ledger.experiment(run.experiment)
        return run.state.is_terminal or (run.state in READY and experiment.wanted is not Wanted.RUNNING)

    def say_what_it_waits_for(self) -> None:
        """Once for each state that the run waits in."""
        run = find_run(self._session, self._run_id)
        if run.state is RunState.RUNNING or run.state == self._said:
            return
        self._said = run.state
        job = _newest_job(self._session, run)
        number = f" (job {job.job_id})" if job is not None and job.job_id and run.state.is_active else ""
        note = self._session.controller.snapshot(run.experiment).notes.get(run.run_id, "")
        if run.state in READY:
            note = note or f"a controller submits it when there is room (`sweep watch {run.experiment}` is one)"
        _say(f"run {run.run_id} is {run.state}{number}{f': {note}' if note else ''}; its log follows when it starts")

    def _look(self) -> RunRow:
        run = find_run(self._session, self._run_id)
        now = time.monotonic()
        if run.state.is_active and now >= self._next_look:
            try:
                self._session.controller.observe(run.experiment)
            except Unreachable:
                pass  # asked again; what is on disk is shown all the same
            job = _newest_job(self._session, run)
            backend = None if job is None else self._session.controller.backend(job.backend)
            self._next_look = now + (backend.poll_interval_s if backend is not None else _LOOK_S)
            run = find_run(self._session, self._run_id)
        return run


def _follow(session: Session, run: RunRow, run_dir: RunDir, rank: int, attempt: int | None) -> None:
    watching = _Watching(session, run.run_id)
    positions: dict[int, int] = {}
    while True:
        if attempt is not None:
            record = run_dir.read_attempt(attempt)
            is_over = record is not None and record.ended is not None
        else:
            is_over = watching.is_over()
        numbers = [attempt] if attempt is not None else run_dir.attempt_numbers()
        # What an attempt printed last may be seen only when the next one has begun.
        newest_shown = max(positions, default=numbers[-1] if numbers else 0)
        for number in (number for number in numbers if number >= newest_shown):
            _print_news(run_dir, number, rank, positions, is_over=is_over)
        if is_over:
            break
        if not positions:
            watching.say_what_it_waits_for()
        time.sleep(_LOOK_S)
    if not positions and not _offer_job_log(session, run):
        _say(f"run {run.run_id} has printed nothing (rank {rank})")


def _print_news(run_dir: RunDir, number: int, rank: int, positions: dict[int, int], *, is_over: bool) -> None:
    path = run_dir.rank_log_path(number, rank)
    if not path.exists():
        # The launcher's log is of interest only if it stays all there is.
        launcher_log = run_dir.launcher_log_path(number)
        if not (is_over and rank == 0 and number not in positions and launcher_log.exists()):
            return
        path = launcher_log
    if positions and number not in positions:
        record = run_dir.read_attempt(number)
        place = "" if record is None else f" (job {record.job_id} on {', '.join(record.hosts)})"
        sys.stdout.write(f"--- attempt {number}{place} ---\n")
        sys.stdout.flush()
    positions[number] = _print_from(path, positions.get(number, 0))
