"""The ledger's file, its transactions, and the moves of runs between states, which all its parts make.

Every change is one short exclusive transaction, so two controllers never mix. State changes are compare-and-set: a
controller that decided on an old picture changes nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError

from orchestrator.errors import EnvironmentProblem
from orchestrator.ledger.schema import events, migrate, runs
from orchestrator.plan import Move
from orchestrator.state import MOVES, RunState

#: SQLite allows 32,766 bound values in one statement; this many run ids at once stays well below.
_CHUNK = 5000


class Database:
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
        for chunk in chunks(list(tokens)):
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


def _leave_transactions_to_us(dbapi_connection: Any, _record: Any) -> None:
    # The sqlite3 module would begin transactions by itself, and only at the first write: too late for
    # read-then-write. (SQLAlchemy's documented recipe.)
    dbapi_connection.isolation_level = None
    dbapi_connection.execute("PRAGMA foreign_keys = ON")


def _begin_immediately(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    """``items`` in pieces that one statement takes."""
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
