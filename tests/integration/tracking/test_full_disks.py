"""A disk is full, of a database, of artifacts or of a server: one sentence, and all is there once there is space."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EnvironmentProblem
from tests.integration.tracking.fabricated import Fabricated, contents, uri_of
from tests.integration.tracking.servers import served


class Disk:
    """A small file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    return

    def free(self) -> None:
        self._ballast.unlink()

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path)


@pytest.fixture
def disk(fabricated: Fabricated) -> Iterator[Disk]:
    """Where artifacts go; other things may be put there too."""
    folder = fabricated.workspace.path / "mlartifacts"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fails(fabricated: Fabricated, uri: str | None, words: str, **options: Any) -> None:
    """A collection is one sentence that ends the command with 3, long before its patience would end."""
    said: list[str] = []
    begun = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=words) as caught:
        fabricated.collect(uri, notice=said.append, **options)
    assert time.monotonic() - begun < 15
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert len(said) <= 1


def test_the_database(fabricated: Fabricated, disk: Disk) -> None:
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    fabricated.cursors.path.unlink()
    uri = f"sqlite:///{disk.folder / 'store.db'}"
    disk.clear()

    disk.fill()  # there is no database yet
    fails(fabricated, uri, "store.db cannot be used: database or disk is full")
    disk.free()
    first = replace(fabricated, runs=fabricated.runs[:1])
    first.collect(uri)
    disk.fill()  # in the middle
    fails(fabricated, uri, "store.db failed: (database or disk is full|No space left on device); nothing is lost")
    disk.free()
    fabricated.collect(uri)
    found = contents(uri)
    for run_id in expected.keys() - {""}:
        assert found[run_id] == expected[run_id]


def test_the_artifacts(fabricated: Fabricated, disk: Disk, empty_store: Path) -> None:
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
    fabricated.cursors.path.unlink()
    disk.clear()
    disk.fill()
    fails(fabricated, None, "mlflow.db failed: No space left on device; nothing is lost")
    disk.free()
    assert fabricated.collect().problems == ()
    assert contents(uri_of(fabricated)) == expected


def test_the_disk_of_a_server(fabricated: Fabricated, disk: Disk, empty_store: Path) -> None:
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    disk.clear()
    shutil.copy(empty_store, disk.folder / "server.db")
    with served(disk.folder) as uri:
        first = replace(fabricated, runs=fabricated.runs[:1])
        first.collect(uri)
        disk.fill()
        fails(fabricated, uri, "failed: it answers with HTTP status 50[03]; nothing is lost", patience_s=1)
        disk.free()
        assert fabricated.collect(uri).problems == ()
        found = contents(uri)
        for run_id in expected.keys() - {""}:
            assert found[run_id] == expected[run_id]
