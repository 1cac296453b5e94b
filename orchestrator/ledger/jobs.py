"""The jobs of runs: intents, submissions, ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.backends.base import Job, JobRequest
from orchestrator.ledger.database import Database, chunks
from orchestrator.ledger.rows import JobRow, job_row
from orchestrator.ledger.schema import cells, events, jobs, runs
from orchestrator.plan import EndJob, Move
from orchestrator.state import READY, RunState


class JobLedger(Database):
    """The part of the ledger that is about jobs."""

    def open_jobs(
        self,
        *,
        experiment: str,
        backend: str,
        candidates: Sequence[JobRequest],
        admit: Callable[[Sequence[JobRequest], Sequence[Job]], list[JobRequest]],
        owner: str,
    ) -> list[JobRequest]:
        """Write the intent to submit those candidates that ``admit`` lets in, before the backend is called.

        Room is judged and taken in one transaction, against the jobs of all experiments, so that two controllers
        never fill the same place, and a run that another one has submitted meanwhile is left out.
        """
        now = self._clock()
        with self._transaction() as connection:
            active = connection.execute(sa.select(jobs).where(jobs.c.backend == backend, jobs.c.ended.is_(None)))
            active_jobs = [job_row(row).as_job(Path()) for row in active.mappings()]
            ready = set(
                connection.execute(
                    sa.select(runs.c.run_id)
                    .join(cells, cells.c.run_id == runs.c.run_id)
                    .where(cells.c.experiment == experiment, runs.c.state.in_(READY))
                ).scalars()
            )
            admitted = admit([request for request in candidates if request.run_id in ready], active_jobs)
            if admitted:
                shapes = {shape: json.dumps(asdict(shape)) for shape in {request.shape for request in admitted}}
                connection.execute(
                    sa.insert(jobs),
                    [
                        {
                            "token": request.token,
                            "run_id": request.run_id,
                            "experiment": experiment,
                            "backend": backend,
                            "shape": shapes[request.shape],
                            "devices": json.dumps(request.devices),
                            "owner": owner,
                            "created": now,
                        }
                        for request in admitted
                    ],
                )
            tokens = {request.run_id: request.token for request in admitted}
            self._move_many(connection, tokens, RunState.SUBMITTING, "", now)
        return admitted

    def adopt_job(self, job: JobRow) -> bool:
        """Record a living job that the ledger does not know (it was deleted, say). False if the run has one already."""
        with self._transaction() as connection:
            try:
                connection.execute(sa.insert(jobs).values(**job_values(job)))
            except sa.exc.IntegrityError:
                return False
            return self._move(connection, job.run_id, RunState.SUBMITTING, "found running", job.token, self._clock())

    def jobs_submitted(self, job_ids: Mapping[str, str]) -> None:
        """Record the backend's ids (token -> id) of jobs whose intents were written."""
        if not job_ids:
            return
        change = (
            sa.update(jobs)
            .where(jobs.c.token == sa.bindparam("of"))
            .values(job_id=sa.bindparam("id"), submitted=self._clock())
        )
        with self._transaction() as connection:
            connection.execute(change, [{"of": token, "id": job_id} for token, job_id in job_ids.items()])

    def withdraw_jobs(self, tokens: Iterable[str]) -> None:
        """Take back intents of which it is certain that no job was or will be started; their runs are ready again."""
        now = self._clock()
        with self._transaction() as connection:
            for chunk in chunks(list(tokens)):
                found = connection.execute(sa.select(jobs.c.run_id, jobs.c.token).where(jobs.c.token.in_(chunk)))
                withdrawn = {row.run_id: row.token for row in found}
                connection.execute(sa.delete(jobs).where(jobs.c.token.in_(chunk)))
                self._move_many(connection, withdrawn, RunState.PLANNED, "", now)

    def jobs_absent(self, since: Mapping[str, float | None]) -> None:
        """Record since when (token -> time) the backend does not know jobs; None where it knows them (again)."""
        if not since:
            return
        change = sa.update(jobs).where(jobs.c.token == sa.bindparam("of")).values(absent_since=sa.bindparam("since"))
        with self._transaction() as connection:
            connection.execute(change, [{"of": token, "since": moment} for token, moment in since.items()])

    def request_stop(self, tokens: Sequence[str]) -> None:
        """Mark that the end of these jobs is the user's wish, so that no budget pays for it."""
        with self._transaction() as connection:
            for chunk in chunks(tokens):
                connection.execute(sa.update(jobs).where(jobs.c.token.in_(chunk)).values(stop_requested=1))

    def end_jobs(self, ends: Iterable[EndJob]) -> set[str]:
        """End jobs and move their runs, in one transaction; the tokens of those that nobody else had ended before."""
        now = self._clock()
        by_token = {end.token: end for end in ends}
        change = (
            sa.update(jobs)
            .where(jobs.c.token == sa.bindparam("of"))
            .values(
                ended=now,
                cause=sa.bindparam("why"),
                detail=sa.bindparam("what"),
                first_step=sa.bindparam("from"),
                last_step=sa.bindparam("to"),
            )
        )
        with self._transaction() as connection:
            living: list[EndJob] = []
            for chunk in chunks(list(by_token)):
                query = sa.select(jobs.c.token).where(jobs.c.token.in_(chunk), jobs.c.ended.is_(None))
                living += [by_token[token] for token in connection.execute(query).scalars()]
            if living:
                values = [
                    {"of": e.token, "why": e.cause, "what": e.detail, "from": e.first_step, "to": e.last_step}
                    for e in living
                ]
                connection.execute(change, values)
                self._move_all(connection, (Move(e.run_id, e.next_state, e.reason, e.token) for e in living), now)
        return {end.token for end in living}

    def living_jobs(self, name: str) -> list[JobRow]:
        """Jobs that may live, of all runs in the experiment's grid (also if another experiment submitted them)."""
        with self._transaction() as connection:
            query = (
                sa.select(jobs)
                .join(cells, cells.c.run_id == jobs.c.run_id)
                .where(cells.c.experiment == name, jobs.c.ended.is_(None))
                .order_by(cells.c.position)
            )
            found = connection.execute(query).mappings().all()
        return [job_row(row) for row in found]

    def jobs_of(self, run_id: str) -> list[JobRow]:
        """All jobs of a run, oldest first."""
        return self.jobs_of_all([run_id])[run_id]

    def jobs_of_all(self, run_ids: Sequence[str]) -> dict[str, list[JobRow]]:
        """Run id -> all its jobs, oldest first."""
        found: dict[str, list[JobRow]] = {run_id: [] for run_id in run_ids}
        with self._transaction() as connection:
            for chunk in chunks(run_ids):
                query = sa.select(jobs).where(jobs.c.run_id.in_(chunk)).order_by(jobs.c.created)
                for row in connection.execute(query).mappings():
                    found[row["run_id"]].append(job_row(row))
        return found

    def newest_jobs(self, name: str) -> dict[str, tuple[JobRow, int]]:
        """Run id -> its newest job and how many there were, for the runs of the experiment that had one."""
        with self._transaction() as connection:
            query = (
                sa.select(jobs)
                .join(cells, cells.c.run_id == jobs.c.run_id)
                .where(cells.c.experiment == name)
                .order_by(jobs.c.created)
            )
            found = connection.execute(query).mappings().all()
        newest: dict[str, tuple[JobRow, int]] = {}
        for row in found:
            job = job_row(row)
            newest[job.run_id] = (job, newest.get(job.run_id, (job, 0))[1] + 1)
        return newest

    def events_of(self, run_id: str) -> list[tuple[float, str, str]]:
        """(time, state, detail) of everything that happened to a run, oldest first."""
        with self._transaction() as connection:
            query = sa.select(events).where(events.c.run_id == run_id).order_by(events.c.id)
            return [(row["time"], row["state"], row["detail"]) for row in connection.execute(query).mappings()]

    def completed_durations(self) -> list[tuple[str, Any, float]]:
        """(run id, configuration, seconds of its jobs) of every run that completed in full, the newest first.

        The seconds hold what the jobs waited for their backend too.
        """
        seconds = sa.func.sum(jobs.c.ended - jobs.c.submitted)
        query = (
            sa.select(runs.c.run_id, runs.c.config, seconds)
            .join(jobs, jobs.c.run_id == runs.c.run_id)
            .where(
                runs.c.state == RunState.COMPLETED,
                runs.c.reason == "",
                jobs.c.ended.is_not(None),
                jobs.c.submitted.is_not(None),
            )
            .group_by(runs.c.run_id)
            .order_by(sa.func.max(jobs.c.ended).desc())
        )
        with self._transaction() as connection:
            return [(run_id, json.loads(config), taken) for run_id, config, taken in connection.execute(query)]


def job_values(job: JobRow) -> dict[str, Any]:
    """The row of a living job that was submitted by somebody else."""
    return {
        "token": job.token,
        "run_id": job.run_id,
        "experiment": job.experiment,
        "backend": job.backend,
        "job_id": job.job_id,
        "shape": json.dumps(asdict(job.shape)),
        "devices": json.dumps(job.devices),
        "owner": job.owner,
        "created": job.created,
        "submitted": job.submitted,
    }
