"""PostgreSQL as the store, and behind a tracking server: the same contents as SQLite's, each once, whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem
from orchestrator.workspace import Workspace
from tests.integration.tracking.fabricated import Fabricated, contents, fabricate, nameless, uri_of
from tests.integration.tracking.postgresql import ESCAPED, PASSWORD, Cluster, binaries, cluster
from tests.integration.tracking.servers import served

DATABASE = "runs"
BINARIES = binaries()
pytestmark = pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed (Debian's package postgresql)")


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    """A cluster with one database that has MLflow's tables. Its experiments need names of their own."""
    assert BINARIES is not None
    with cluster(BINARIES) as made:
        made.execute(f"CREATE DATABASE {DATABASE}")
        connect(made.uri(DATABASE))
        yield made


@pytest.fixture
def uri(database: Cluster) -> str:
    return database.uri(DATABASE)


@pytest.fixture
def named(fabricated: Fabricated, request: pytest.FixtureRequest) -> Fabricated:
    fabricated.name = request.node.name
    return fabricated


def test_a_database_server_holds_the_same_as_a_file_once(named: Fabricated, uri: str) -> None:
    named.collect()
    expected = contents(uri_of(named), named.name)
    assert named.collect(uri).problems == ()
    assert contents(uri, named.name) == expected
    again = named.collect(uri)
    assert (again.changed, again.points, again.artifacts) == (0, 0, 0)
    named.cursors.path.unlink()
    named.collect(uri)
    assert contents(uri, named.name) == expected


def test_points_that_are_sent_again_among_new_ones_are_there_once(named: Fabricated, uri: str) -> None:
    """What collecting relies on after an answer was lost."""
    from mlflow.entities import Metric

    named.collect(uri)
    client = connect(uri)
    experiment = client.get_experiment_by_name(named.name)
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    points = [Metric("loss", value, 1_700_000_000_000, step) for step, value in enumerate([0.1, 1e-300, float("nan")])]
    for begin, end in ((0, 2), (0, 3), (1, 3)):
        client.log_batch(run.info.run_id, metrics=points[begin:end])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, repr(point.value)) for point in history] == [(0, "0.1"), (1, "1e-300"), (2, "nan")]


def test_the_password_is_kept_nowhere(named: Fabricated, database: Cluster, uri: str) -> None:
    assert PASSWORD not in named.collect(uri).uri
    command = [database.bin / "pg_dump", "-h", "127.0.0.1", "-p", str(database.port), "-U", "sweep", DATABASE]
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    stored = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert named.name.encode() in stored
    files = [path.read_bytes() for path in named.workspace.path.rglob("*") if path.is_file()]
    for text in (stored, *files):
        assert PASSWORD.encode() not in text
        assert ESCAPED.encode() not in text


def test_a_password_of_the_environment_serves(
    named: Fabricated, database: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert named.collect(f"postgresql://sweep@127.0.0.1:{database.port}/{DATABASE}").problems == ()


def test_a_tracking_server_before_it_holds_the_same(named: Fabricated, uri: str, tmp_path: Path) -> None:
    named.collect()
    expected = contents(uri_of(named), named.name)
    with served(tmp_path, store=uri.replace("postgresql", "postgresql+psycopg2")) as server:
        assert named.collect(server).problems == ()
        assert contents(server, named.name) == expected


# --- two machines -----------------------------------------------------------------------------------------------------


def collect_beside(fabricated: Fabricated, uri: str, start: Barrier) -> None:
    start.wait()
    fabricated.collect(uri)


@pytest.mark.parametrize("num_runs", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_two_machines_at_once_leave_everything_once(tmp_path: Path, empty_store: Path, uri: str, num_runs: int) -> None:
    """Each has a workspace of its own, and so there is no lock between them."""
    left = fabricate(tmp_path / "left", num_runs=num_runs)
    left.name = f"two-machines-{num_runs}"
    workspace = Workspace(tmp_path / "rite")  # as long as the other: logs that are cut name their files
    shutil.copytree(left.workspace.path, workspace.path)
    right = Fabricated(workspace, [replace(run, run_dir=workspace.run_dir(run.run_id)) for run in left.runs], left.name)
    shutil.copy(empty_store, left.workspace.path / "mlflow.db")
    left.collect()
    expected = contents(uri_of(left), left.name)
    # Forked, so that MLflow is imported once; each with an address of its own, and so with connections of its own.
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    pair = [
        context.Process(target=collect_beside, args=(side, f"{uri}?application_name={side.workspace.path.name}", start))
        for side in (left, right)
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join(timeout=400)
        assert process.exitcode == 0
    for side in (left, right):
        assert side.collect(uri).problems == ()
    assert contents(uri, left.name) == expected
    assert [side.collect(uri).changed for side in (left, right)] == [0, 0]


def test_a_row_that_another_machine_adds_at_the_same_moment_is_no_problem(
    named: Fabricated, database: Cluster, uri: str
) -> None:
    import sqlalchemy as sa

    named.collect()
    expected = contents(uri_of(named), named.name)
    added: list[str] = []

    def add_before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("INSERT INTO inputs ") and not added:
            added.append(statement)
            database.execute(statement, DATABASE, parameters)

    notices: list[str] = []
    sa.event.listen(sa.engine.Engine, "before_cursor_execute", add_before)
    try:
        assert named.collect(uri, notice=notices.append).problems == ()
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", add_before)
    assert added
    assert notices == []
    assert contents(uri, named.name) == expected


# --- trouble ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_commit(number: int, do: Any) -> Iterator[None]:
    """Call ``do`` before the ``number``-th commit from now on."""
    import sqlalchemy as sa

    commits, lock = itertools.count(1), threading.Lock()

    def look(_connection: Any) -> None:
        with lock:
            is_it = next(commits) == number
        if is_it:
            do()

    sa.event.listen(sa.engine.Engine, "commit", look)
    try:
        yield
    finally:
        sa.event.remove(sa.engine.Engine, "commit", look)


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        (signal.SIGINT, (25,)),
        (signal.SIGQUIT, (37, 43)),
        pytest.param(signal.SIGQUIT, range(5, 50), marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
    ids=["stopped", "crashed", "crashed-everywhere"],
)
def test_a_database_that_ends_in_the_middle_is_waited_for(
    named: Fabricated, database: Cluster, uri: str, kind: signal.Signals, moments: Sequence[int]
) -> None:
    named.collect()
    expected = nameless(uri_of(named), named.name)
    notices: list[str] = []

    def start_again(notice: str) -> None:
        notices.append(notice)
        if "in trouble" in notice:
            database.start()

    for moment in moments:
        named.name = f"{kind.name}-{moment}-of-{len(moments)}"
        notices.clear()
        with at_commit(moment, lambda: database.stop(kind)):
            assert named.collect(uri, notice=start_again).problems == ()
        assert [notice.partition(" (")[0] for notice in notices] == [
            "the tracking store is in trouble",
            "the tracking store answers again",
        ]
        assert "psycopg2" not in notices[0]
        assert nameless(uri, named.name) == expected


def test_a_database_that_stays_away_is_one_sentence_and_gone_on_with(
    named: Fabricated, database: Cluster, uri: str
) -> None:
    named.collect()
    expected = contents(uri_of(named), named.name)
    try:
        with (
            at_commit(25, database.stop),
            pytest.raises(EnvironmentProblem, match=r"Connection refused.*; nothing is lost") as caught,
        ):
            named.collect(uri, patience_s=0.5)
        assert_one_sentence(str(caught.value))
        begin = time.monotonic()
        with pytest.raises(EnvironmentProblem, match=r"does not answer \(.*Connection refused") as caught:
            named.collect(uri)
        assert time.monotonic() - begin < 10
        assert_one_sentence(str(caught.value))
    finally:
        database.start()
    named.collect(uri)
    assert contents(uri, named.name) == expected


@pytest.mark.parametrize(
    ("password", "name", "said"),
    [("wrong", DATABASE, "password authentication failed"), (ESCAPED, "unknown", 'database "unknown" does not exist')],
)
def test_a_refusal_is_one_sentence_at_once(
    named: Fabricated, database: Cluster, password: str, name: str, said: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=rf"refuses \({said}.*\); correct tracking\.uri") as caught:
        named.collect(database.uri(name, password))
    assert time.monotonic() - begin < 10
    assert_one_sentence(str(caught.value))


def assert_one_sentence(text: str) -> None:
    assert "\n" not in text
    assert ESCAPED not in text and PASSWORD not in text and "wrong" not in text
