"""Reading and changing the ledger. Every change is one short exclusive transaction, so two controllers never mix.

State changes are compare-and-set: a controller that decided on an old picture changes nothing.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
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
from orchestrator.plan import EndJob, Move
from orchestrator.state import MOVES, READY, RunState

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
        return bool(self.move_all([Move(run_id, to, reason, token)]))

    def move_all(self, moves: Iterable[Move]) -> list[str]:
        """Move runs, those for which it is legal; their ids."""
        now = self._clock()
        with self._transaction() as connection:
            return self._move_all(connection, moves, now)

    def _move_all(self, connection: sa.Connection, moves: Iterable[Move], now: float) -> list[str]:
        alike: dict[tuple[RunState, str], dict[str, str]] = defaultdict(dict)
        for move in moves:
            alike[move.state, move.reason][move.run_id] = move.token
        return [
            run_id
            for (state, reason), tokens in alike.items()
            for run_id in self._move_many(connection, tokens, state, reason, now)
        ]

    def _move(self, connection: sa.Connection, run_id: str, to: RunState, reason: str, token: str, now: float) -> bool:
        return bool(self._move_many(connection, {run_id: token}, to, reason, now))

    @staticmethod
    def _move_many(
        connection: sa.Connection, tokens: Mapping[str, str], to: RunState, reason: str, now: float
    ) -> list[str]:
        """Move runs (run id -> token) to one state, by statements for thousands; the ids of those that moved."""
        sources = [state for state, targets in MOVES.items() if to in targets]
        moved: list[str] = []
        for chunk in _chunks(list(tokens)):
            where = sa.and_(runs.c.run_id.in_(chunk), runs.c.state.in_(sources))
            # No other transaction runs, so that what was found is what is changed.
            found = connection.execute(sa.select(runs.c.run_id).where(where)).scalars().all()
            if found:
                connection.execute(sa.update(runs).where(where).values(state=to, reason=reason, updated=now))
                moved += found
        if moved:
            connection.execute(
                sa.insert(events),
                [
                    {"time": now, "run_id": run_id, "token": tokens[run_id], "state": to, "detail": reason}
                    for run_id in moved
                ],
            )
        return moved

    def reset(self, run_ids: Sequence[str], reason: str) -> int:
        """Give runs that have ended or stopped a fresh budget and make them ready; how many there were."""
        with self._transaction() as connection:
            return self._reset(connection, run_ids, self._clock(), reason)

    def _reset(self, connection: sa.Connection, run_ids: Sequence[str], now: float, reason: str) -> int:
        moved = self._move_many(connection, dict.fromkeys(run_ids, ""), RunState.PLANNED, reason, now)
        for chunk in _chunks(moved):
            connection.execute(sa.update(runs).where(runs.c.run_id.in_(chunk)).values(reset_at=now))
        return len(moved)

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
            for chunk in _chunks(list(tokens)):
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
            for chunk in _chunks(tokens):
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
            for chunk in _chunks(list(by_token)):
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
            for chunk in _chunks(run_ids):
                query = sa.select(jobs).where(jobs.c.run_id.in_(chunk)).order_by(jobs.c.created)
                for row in connection.execute(query).mappings():
                    found[row["run_id"]].append(job_row(row))
        return found

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
