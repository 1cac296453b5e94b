"""Stores for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.collect.store import connect
from tests.integration.tracking.fabricated import Fabricated, fabricate
from tests.integration.tracking.servers import served


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes longer than any test here."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def fabricated(tmp_path: Path, empty_store: Path) -> Fabricated:
    made = fabricate(tmp_path / "work space")
    shutil.copy(empty_store, made.workspace.path / "mlflow.db")
    return made


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """Address of a tracking server that also takes the files. Its experiments need names of their own."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    with served(folder) as uri:
        yield uri
