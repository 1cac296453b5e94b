"""The tracking database comes to be whole or not at all, whenever its maker is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem

MAKE = "import sys; from orchestrator.collect.store import connect; connect(sys.argv[1])"


def written_so_far(folder: Path) -> int:
    """Bytes of the database in the making, or made."""
    return sum(path.stat().st_size for path in folder.rglob("*.db"))


def test_a_database_whose_maker_was_killed_is_made_anew(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    maker = subprocess.Popen([sys.executable, "-c", MAKE, uri])
    deadline = time.monotonic() + 60
    while not written_so_far(tmp_path):
        assert maker.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    maker.kill()
    maker.wait()
    assert not (tmp_path / "mlflow.db").exists(), "it was killed too late to tell anything"
    assert [experiment.name for experiment in connect(uri).search_experiments()] == ["Default"]


def test_a_database_that_was_never_complete_is_named(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE _alembic_tmp_experiments (x)")
        database.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT)")
    with pytest.raises(EnvironmentProblem, match="move it away"):
        connect(f"sqlite:///{path}")
