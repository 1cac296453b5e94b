"""Reading and changing the ledger: experiments and their runs here, jobs in what it is built on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from orchestrator.errors import InputError
from orchestrator.ledger.database import chunks
from orchestrator.ledger.jobs import JobLedger, job_values
from orchestrator.ledger.rows import ExperimentRow, JobRow, NewRun, RunRow, Wanted, experiment_row, run_row
from orchestrator.ledger.schema import cells, cursors, experiments, jobs, runs
from orchestrator.state import RunState


class Ledger(JobLedger):
    """The database at ``path``, created and migrated when opened.

    Raises:
        EnvironmentProblem: the file cannot be opened or written, or is no ledger.
    """

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
        """Runs that completed in full, and of which another evaluation is asked for than before."""
        wanted = {run.run_id: run.config.get("evaluate") for run in new_runs}
        found: list[str] = []
        for chunk in chunks(list(wanted)):
            query = sa.select(runs.c.run_id, runs.c.config).where(
                runs.c.run_id.in_(chunk), runs.c.state == RunState.COMPLETED, runs.c.reason == ""
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
            [_run_values(run, now) for run in new_runs],
        )
        connection.execute(
            sa.insert(cells),
            [_cell_values(name, run) for run in new_runs],
        )

    def adopt_runs(self, name: str, found: Sequence[tuple[NewRun, JobRow | None]]) -> None:
        """Add runs that were made while the experiment runs, each with the living job that carries it, if one does.

        Runs, cells and jobs that are there already stay as they are.
        """
        if not found:
            return
        now = self._clock()
        with self._transaction() as connection:
            for run, job in found:
                connection.execute(_or_ignore(runs), _run_values(run, now))
                connection.execute(_or_ignore(cells), _cell_values(name, run))
                if job is not None and connection.execute(_or_ignore(jobs), job_values(job)).rowcount:
                    self._move(connection, run.run_id, RunState.SUBMITTING, "suggested", job.token, now)

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

    def configs(self, run_ids: Sequence[str]) -> dict[str, Any]:
        """Run id -> configuration, as it will stand in spec.json."""
        result: dict[str, Any] = {}
        with self._transaction() as connection:
            for chunk in chunks(run_ids):
                query = sa.select(runs.c.run_id, runs.c.config).where(runs.c.run_id.in_(chunk))
                result.update({run_id: json.loads(config) for run_id, config in connection.execute(query)})
        return result

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Run id -> state, for those that the ledger knows."""
        result: dict[str, RunState] = {}
        with self._transaction() as connection:
            for chunk in chunks(run_ids):
                query = sa.select(runs.c.run_id, runs.c.state).where(runs.c.run_id.in_(chunk))
                result.update({run_id: RunState(state) for run_id, state in connection.execute(query)})
        return result

    def reset(self, run_ids: Sequence[str], reason: str) -> int:
        """Give runs that have ended or stopped a fresh budget and make them ready; how many there were."""
        with self._transaction() as connection:
            return self._reset(connection, run_ids, self._clock(), reason)

    def _reset(self, connection: sa.Connection, run_ids: Sequence[str], now: float, reason: str) -> int:
        moved = self._move_many(connection, dict.fromkeys(run_ids, ""), RunState.PLANNED, reason, now)
        for chunk in chunks(moved):
            connection.execute(sa.update(runs).where(runs.c.run_id.in_(chunk)).values(reset_at=now))
        return len(moved)

    # --- collection -------------------------------------------------------------------------------------------------

    def cursors(self, uri: str, experiment: str) -> dict[str, str]:
        """Run id -> the collector's note (JSON text) of what it brought into a store."""
        with self._transaction() as connection:
            query = sa.select(cursors.c.run_id, cursors.c.cursor).where(
                cursors.c.uri == uri, cursors.c.experiment == experiment
            )
            return {row.run_id: row.cursor for row in connection.execute(query)}

    def put_cursors(self, uri: str, experiment: str, texts: Mapping[str, str]) -> None:
        """Replace the collector's notes of these runs."""
        if not texts:
            return
        upsert = sqlite.insert(cursors)
        upsert = upsert.on_conflict_do_update(
            index_elements=["uri", "experiment", "run_id"], set_={"cursor": upsert.excluded.cursor}
        )
        values = [
            {"uri": uri, "experiment": experiment, "run_id": run_id, "cursor": text} for run_id, text in texts.items()
        ]
        with self._transaction() as connection:
            connection.execute(upsert, values)


def _or_ignore(table: sa.Table) -> sa.Insert:
    """An insertion that does nothing where a row is in its way."""
    return sa.insert(table).prefix_with("OR IGNORE")


def _run_values(run: NewRun, now: float) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "config": json.dumps(run.config),
        "state": RunState.PLANNED,
        "reason": "",
        "reset_at": 0.0,
        "created": now,
        "updated": now,
    }


def _cell_values(experiment: str, run: NewRun) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "run_id": run.run_id,
        "position": run.position,
        "axes": json.dumps(run.axes),
        "resources": json.dumps(run.resources),
    }


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
