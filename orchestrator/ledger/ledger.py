"""Reading and changing the ledger. Every change is one short exclusive transaction, so two controllers never mix.

State changes are compare-and-set: a controller that decided on an old picture changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from orchestrator.backends.base import Job, JobRequest
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.ledger.rows import ExperimentRow, JobRow, NewRun, RunRow, Wanted, experiment_row, job_row, run_row
from orchestrator.ledger.schema import cells, cursors, events, experiments, jobs, migrate, runs
from orchestrator.state import MOVES, READY, Cause, RunState

#: SQLite allows 32,766 bound values in one statement; this many run ids at once stays well below.
_CHUNK = 5000


class Ledger:
    """The database at ``path``, created and migrated when opened.

    Raises:
        EnvironmentProblem: the file cannot be opened or written, or is no ledger.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60}, poolclass=sa.pool.NullPool)
        sa.event.listen(self._engine, "connect", _leave_transactions_to_us)
        sa.event.listen(self._engine, "begin", _begin_immediately)
        with self._transaction() as connection:
            migrate(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise EnvironmentProblem(
                f"{self.path}: the ledger cannot be used ({error.orig}); check the disk's space and permissions"
            ) from error
        except DatabaseError as error:
            if "not a database" in str(error.orig) or "malformed" in str(error.orig):
                raise EnvironmentProblem(
                    f"{self.path}: not a ledger, or damaged ({error.orig}); move it away: "
                    "`sweep submit` rebuilds it from the run directories"
                ) from error
            raise

    # --- experiments and runs ---------------------------------------------------------------------------------------

    def register(
        self,
        *,
        name: str,
        path: str,
        text: str,
        digest: str,
        axes: Sequence[str],
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        new_runs: Sequence[NewRun],
    ) -> None:
        """Record that the user wants these runs, as the experiment ``name``. Cells that left the file leave the list.

        Runs that the ledger knows keep their state; cancelled ones are wanted again, and completed ones whose
        evaluation has changed are planned, to be evaluated and not trained.
        """
        now = self._clock()
        with self._transaction() as connection:
            known = connection.execute(sa.select(experiments.c.name).where(experiments.c.name == name)).first()
            values = {
                "path": path,
                "text": text,
                "digest": digest,
                "axes": json.dumps(list(axes)),
                "settings": json.dumps(settings),
                "provenance": json.dumps(provenance),
                "wanted": Wanted.RUNNING,
                "updated": now,
            }
            if known:
                connection.execute(sa.update(experiments).where(experiments.c.name == name).values(**values))
            else:
                connection.execute(sa.insert(experiments).values(name=name, created=now, **values))
            connection.execute(sa.delete(cells).where(cells.c.experiment == name))
            asked_anew = self._asked_anew(connection, new_runs)
            self._insert_runs(connection, name, new_runs, now)
            self._reset(connection, asked_anew, now, "its evaluation has changed")
            wanted_again = (
                sa.select(runs.c.run_id)
                .join(cells, cells.c.run_id == runs.c.run_id)
                .where(cells.c.experiment == name, runs.c.state == RunState.CANCELLED)
            )
            self._reset(connection, connection.execute(wanted_again).scalars().all(), now, "wanted again")

    @staticmethod
    def _asked_anew(connection: sa.Connection, new_runs: Sequence[NewRun]) -> list[str]:
        """Completed runs of which another evaluation is asked for than before."""
        wanted = {run.run_id: run.config.get("evaluate") for run in new_runs}
        found: list[str] = []
        for chunk in _chunks(list(wanted)):
            query = sa.select(runs.c.run_id, runs.c.config).where(
                runs.c.run_id.in_(chunk), runs.c.state == RunState.COMPLETED
            )
            found += [
                run_id
                for run_id, config in connection.execute(query)
                if json.loads(config).get("evaluate") != wanted[run_id]
            ]
        return found

    @staticmethod
    def _insert_runs(connection: sa.Connection, name: str, new_runs: Sequence[NewRun], now: float) -> None:
        if not new_runs:
            return
        upsert = sqlite.insert(runs)
        # What is outside the identity (paths, evaluation) may change between submissions; the newest wish counts.
        upsert = upsert.on_conflict_do_update(index_elements=["run_id"], set_={"config": upsert.excluded.config})
        connection.execute(
            upsert,
            [
                {
                    "run_id": run.run_id,
                    "config": json.dumps(run.config),
                    "state": RunState.PLANNED,
                    "reason": "",
                    "reset_at": 0.0,
                    "created": now,
                    "updated": now,
                }
                for run in new_runs
            ],
        )
        connection.execute(
            sa.insert(cells),
            [
                {
                    "experiment": name,
                    "run_id": run.run_id,
                    "position": run.position,
                    "axes": json.dumps(run.axes),
                    "resources": json.dumps(run.resources),
                }
                for run in new_runs
            ],
        )

    def want(self, name: str, wanted: Wanted) -> None:
        """Record what the user wants of the experiment from now on."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(experiments).where(experiments.c.name == name).values(wanted=wanted, updated=self._clock())
            )

    def experiments(self) -> list[ExperimentRow]:
        """All experiments, the one that was used last first."""
        with self._transaction() as connection:
            found = connection.execute(sa.select(experiments).order_by(experiments.c.updated.desc())).mappings().all()
        return [experiment_row(row) for row in found]

    def experiment(self, name: str) -> ExperimentRow:
        """The experiment of that name.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        with self._transaction() as connection:
            found = connection.execute(sa.select(experiments).where(experiments.c.name == name)).mappings().first()
            if found is None:
                names = connection.execute(sa.select(experiments.c.name).order_by(experiments.c.name)).scalars().all()
                known = f"known here: {', '.join(names)}" if names else "none was submitted yet"
                raise InputError(f"no experiment named {name!r} in {self.path.parent} ({known})")
        return experiment_row(found)

    def runs(self, name: str) -> list[RunRow]:
        """Runs of an experiment in the order of its grid."""
        with self._transaction() as connection:
            found = connection.execute(_runs_query().where(cells.c.experiment == name)).mappings().all()
        return [run_row(row) for row in found]

    def find_runs(self, prefix: str) -> list[RunRow]:
        """Runs whose id begins with ``prefix``, once for each experiment they belong to."""
        with self._transaction() as connection:
            query = _runs_query().where(runs.c.run_id.startswith(prefix, autoescape=True))
            found = connection.execute(query).mappings().all()
        return [run_row(row) for row in found]

    def wanted_by_others(self, name: str) -> set[str]:
        """Runs of the experiment that another experiment, which is meant to run, has in its grid too."""
        others = (
            sa.select(cells.c.run_id)
            .join(experiments, experiments.c.name == cells.c.experiment)
            .where(experiments.c.wanted == Wanted.RUNNING, experiments.c.name != name)
        )
        with self._transaction() as connection:
            query = sa.select(cells.c.run_id).where(cells.c.experiment == name, cells.c.run_id.in_(others))
            return set(connection.execute(query).scalars())

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

    def configs(self, run_ids: Sequence[str]) -> dict[str, Any]:
        """Run id -> configuration, as it will stand in spec.json."""
        result: dict[str, Any] = {}
        with self._transaction() as connection:
            for chunk in _chunks(run_ids):
                query = sa.select(runs.c.run_id, runs.c.config).where(runs.c.run_id.in_(chunk))
                result.update({run_id: json.loads(config) for run_id, config in connection.execute(query)})
        return result

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Run id -> state, for those that the ledger knows."""
        result: dict[str, RunState] = {}
        with self._transaction() as connection:
            for chunk in _chunks(run_ids):
                query = sa.select(runs.c.run_id, runs.c.state).where(runs.c.run_id.in_(chunk))
                result.update({run_id: RunState(state) for run_id, state in connection.execute(query)})
        return result

    def move(self, run_id: str, to: RunState, reason: str = "", token: str = "") -> bool:
        """Move a run to another state if that is a legal move from where it is now; True if it moved."""
        with self._transaction() as connection:
            return self._move(connection, run_id, to, reason, token, self._clock())

    def _move(self, connection: sa.Connection, run_id: str, to: RunState, reason: str, token: str, now: float) -> bool:
        sources = [state for state, targets in MOVES.items() if to in targets]
        changed = connection.execute(
            sa.update(runs)
            .where(runs.c.run_id == run_id, runs.c.state.in_(sources))
            .values(state=to, reason=reason, updated=now)
        )
        if changed.rowcount == 0:
            return False
        connection.execute(sa.insert(events).values(time=now, run_id=run_id, token=token, state=to, detail=reason))
        return True

    def reset(self, run_ids: Sequence[str], reason: str) -> int:
        """Give runs that have ended or stopped a fresh budget and make them ready; how many there were."""
        with self._transaction() as connection:
            return self._reset(connection, run_ids, self._clock(), reason)

    def _reset(self, connection: sa.Connection, run_ids: Sequence[str], now: float, reason: str) -> int:
        count = 0
        for run_id in run_ids:
            if self._move(connection, run_id, RunState.PLANNED, reason, "", now):
                connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(reset_at=now))
                count += 1
        return count

    # --- jobs -------------------------------------------------------------------------------------------------------

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
            for request in admitted:
                connection.execute(
                    sa.insert(jobs).values(
                        token=request.token,
                        run_id=request.run_id,
                        experiment=experiment,
                        backend=backend,
                        shape=json.dumps(asdict(request.shape)),
                        devices=json.dumps(request.devices),
                        owner=owner,
                        created=now,
                    )
                )
                self._move(connection, request.run_id, RunState.SUBMITTING, "", request.token, now)
        return admitted

    def adopt_job(self, job: JobRow) -> bool:
        """Record a living job that the ledger does not know (it was deleted, say). False if the run has one already."""
        with self._transaction() as connection:
            try:
                connection.execute(
                    sa.insert(jobs).values(
                        token=job.token,
                        run_id=job.run_id,
                        experiment=job.experiment,
                        backend=job.backend,
                        job_id=job.job_id,
                        shape=json.dumps(asdict(job.shape)),
                        devices=json.dumps(job.devices),
                        owner=job.owner,
                        created=job.created,
                        submitted=job.submitted,
                    )
                )
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
            for token in tokens:
                run_id = connection.execute(sa.select(jobs.c.run_id).where(jobs.c.token == token)).scalar()
                if run_id is not None:
                    connection.execute(sa.delete(jobs).where(jobs.c.token == token))
                    self._move(connection, run_id, RunState.PLANNED, "", token, now)

    def job_absent(self, token: str, since: float | None) -> None:
        """Record since when the backend does not know a job; None when it knows it (again)."""
        with self._transaction() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.token == token).values(absent_since=since))

    def request_stop(self, tokens: Sequence[str]) -> None:
        """Mark that the end of these jobs is the user's wish, so that no budget pays for it."""
        with self._transaction() as connection:
            for chunk in _chunks(tokens):
                connection.execute(sa.update(jobs).where(jobs.c.token.in_(chunk)).values(stop_requested=1))

    def end_job(
        self,
        token: str,
        *,
        cause: Cause,
        detail: str,
        steps: tuple[int, int],
        next_state: RunState,
        reason: str,
    ) -> bool:
        """End a job and move its run, in one transaction. False if another controller ended it first."""
        now = self._clock()
        with self._transaction() as connection:
            ended = connection.execute(
                sa.update(jobs)
                .where(jobs.c.token == token, jobs.c.ended.is_(None))
                .values(ended=now, cause=cause, detail=detail, first_step=steps[0], last_step=steps[1])
            )
            if ended.rowcount == 0:
                return False
            run_id = connection.execute(sa.select(jobs.c.run_id).where(jobs.c.token == token)).scalar_one()
            self._move(connection, run_id, next_state, reason, token, now)
        return True

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
        with self._transaction() as connection:
            query = sa.select(jobs).where(jobs.c.run_id == run_id).order_by(jobs.c.created)
            found = connection.execute(query).mappings().all()
        return [job_row(row) for row in found]

    def events_of(self, run_id: str) -> list[tuple[float, str, str]]:
        """(time, state, detail) of everything that happened to a run, oldest first."""
        with self._transaction() as connection:
            query = sa.select(events).where(events.c.run_id == run_id).order_by(events.c.id)
            return [(row["time"], row["state"], row["detail"]) for row in connection.execute(query).mappings()]

    def completed_durations(self) -> list[tuple[Any, float]]:
        """(configuration, seconds of all its jobs together) of every completed run, whatever its experiment."""
        seconds = sa.func.sum(jobs.c.ended - jobs.c.submitted)
        query = (
            sa.select(runs.c.config, seconds)
            .join(jobs, jobs.c.run_id == runs.c.run_id)
            .where(runs.c.state == RunState.COMPLETED, jobs.c.ended.is_not(None), jobs.c.submitted.is_not(None))
            .group_by(runs.c.run_id)
        )
        with self._transaction() as connection:
            return [(json.loads(config), taken) for config, taken in connection.execute(query)]

    # --- collection -------------------------------------------------------------------------------------------------

    def cursor(self, uri: str, experiment: str, run_id: str) -> str | None:
        """The collector's note (JSON text) of what it brought into a store."""
        with self._transaction() as connection:
            query = sa.select(cursors.c.cursor).where(
                cursors.c.uri == uri, cursors.c.experiment == experiment, cursors.c.run_id == run_id
            )
            found: str | None = connection.execute(query).scalar()
        return found

    def put_cursor(self, uri: str, experiment: str, run_id: str, cursor: str) -> None:
        """Replace the collector's note."""
        with self._transaction() as connection:
            upsert = sqlite.insert(cursors).values(uri=uri, experiment=experiment, run_id=run_id, cursor=cursor)
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=["uri", "experiment", "run_id"], set_={"cursor": upsert.excluded.cursor}
                )
            )


def _leave_transactions_to_us(dbapi_connection: Any, _record: Any) -> None:
    # The sqlite3 module would begin transactions by itself, and only at the first write: too late for
    # read-then-write. (SQLAlchemy's documented recipe.)
    dbapi_connection.isolation_level = None
    dbapi_connection.execute("PRAGMA foreign_keys = ON")


def _begin_immediately(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _runs_query() -> sa.Select[Any]:
    return (
        sa.select(
            cells.c.run_id,
            cells.c.experiment,
            cells.c.position,
            cells.c.axes,
            cells.c.resources,
            runs.c.state,
            runs.c.reason,
            runs.c.reset_at,
        )
        .join(runs, runs.c.run_id == cells.c.run_id)
        .order_by(cells.c.experiment, cells.c.position)
    )
