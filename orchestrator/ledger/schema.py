"""Tables of the ledger and the migrations between their versions.

The version stands in SQLite's ``user_version``. A migration is one function that is run once, inside the transaction
that also moves the version, so that a ledger is never between two versions. (Alembic, which MLflow brings along,
cannot promise that on SQLite, and adds .3 s to every command.)
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Column, Connection, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

from orchestrator.errors import EnvironmentProblem

metadata = MetaData()

#: One row an experiment file. ``settings`` is the JSON of backend, resources, tracking, report and retries.
experiments = Table(
    "experiments",
    metadata,
    Column("name", String, primary_key=True),
    Column("path", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("digest", String, nullable=False),
    Column("axes", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("wanted", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

#: One row a run, shared by all experiments that have it in their grid. ``config`` is what spec.json will hold.
runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("config", Text, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    Column("reset_at", Float, nullable=False, default=0.0),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

#: Which run is which cell of which experiment.
cells = Table(
    "cells",
    metadata,
    Column("experiment", ForeignKey("experiments.name"), primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("axes", Text, nullable=False),
    Column("resources", Text, nullable=False),
    Index("cells_by_run", "run_id"),
)

#: One row a submission. The row, with its token, is written before the backend is called. ``ended`` is null while the
#: job may live. ``stop_requested`` marks an end that the user asked for, which no budget pays for.
jobs = Table(
    "jobs",
    metadata,
    Column("token", String, primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("experiment", String, nullable=False),
    Column("backend", String, nullable=False),
    Column("job_id", String, nullable=False, default=""),
    Column("shape", Text, nullable=False),
    Column("devices", Text, nullable=False),
    Column("owner", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("submitted", Float),
    Column("absent_since", Float),
    Column("stop_requested", Integer, nullable=False, default=0),
    Column("ended", Float),
    Column("cause", String, nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    Column("first_step", Integer, nullable=False, default=0),
    Column("last_step", Integer, nullable=False, default=0),
    Index("jobs_by_run", "run_id"),
)
#: At most one living job a run, whatever two controllers do at once.
Index("one_living_job_per_run", jobs.c.run_id, unique=True, sqlite_where=jobs.c.ended.is_(None))

#: What happened, in order. Append only.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("run_id", String, nullable=False, index=True),
    Column("token", String, nullable=False, default=""),
    Column("state", String, nullable=False),
    Column("detail", Text, nullable=False, default=""),
)

#: What the collector has brought into which tracking store. ``run_id`` is empty for an experiment's parent run.
cursors = Table(
    "cursors",
    metadata,
    Column("uri", String, primary_key=True),
    Column("experiment", String, primary_key=True),
    Column("run_id", String, primary_key=True),
    Column("cursor", Text, nullable=False),
)


def _first_schema(connection: Connection) -> None:
    metadata.create_all(connection)


#: ``MIGRATIONS[i]`` brings version i to version i + 1. Append only; never edit one that was released.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first_schema,)
SCHEMA_VERSION = len(MIGRATIONS)


def migrate(connection: Connection) -> None:
    """Bring the ledger to the newest version, inside the connection's (exclusive) transaction.

    Raises:
        EnvironmentProblem: the ledger was written by a newer version of this program.
    """
    version = connection.execute(text("PRAGMA user_version")).scalar_one()
    if version > SCHEMA_VERSION:
        raise EnvironmentProblem(
            f"the ledger has schema version {version} and this program knows up to {SCHEMA_VERSION}: "
            "it was written by a newer version; update this installation"
        )
    for migration in MIGRATIONS[version:]:
        migration(connection)
    if version < SCHEMA_VERSION:
        connection.execute(text(f"PRAGMA user_version = {SCHEMA_VERSION}"))
