"""One finished grid, one server and one browser for the tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.collect.store import connect, store_uri
from orchestrator.workspace import Workspace
from tests.e2e.browser.browser import Browser, started
from tests.e2e.browser.finished_grid import NAME, FinishedRun, write_grid


def command(*words: str | Path, workspace: Workspace) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *map(str, words), f"--workspace={workspace.path}"]


@dataclass(frozen=True)
class Served:
    """An experiment in MLflow, and the server on it.

    Attributes:
        links: what ``sweep ui`` printed: title -> address.
        runs: MLflow's ids of the runs, by name; the parent's under the experiment's name.
    """

    workspace: Workspace
    name: str
    links: dict[str, str]
    runs: dict[str, str]

    def run_page(self, run: str, tab: str = "") -> str:
        """Address of a run's page."""
        page, _, _ = self.links["runs"].partition("?")
        return f"{page}/{self.runs[run]}{tab}?workflowType=machine_learning"


@contextmanager
def served(workspace: Workspace, name: str) -> Iterator[Served]:
    """``sweep ui``, as a person starts it."""
    with open(workspace.path / "ui.log", "w") as log:
        process = subprocess.Popen(
            command("ui", name, workspace=workspace), stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        links = {}
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
            title, _, address = line.partition(" ")
            links[title] = address.strip()
        assert "runs" in links, (workspace.path / "ui.log").read_text()
        yield Served(workspace, name, links, _mlflow_ids(workspace, name))
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        process.stdout.close()


def _mlflow_ids(workspace: Workspace, name: str) -> dict[str, str]:
    client = connect(store_uri(None, workspace.path))
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Sequence[FinishedRun]]:
    """Finished runs, recognised, collected and reported by ``sweep run``."""
    folder = tmp_path_factory.mktemp("browser")
    workspace = Workspace(folder / "workspace")
    runs = write_grid(workspace, folder / "digits_lt.yaml")
    subprocess.run(command("run", folder / "digits_lt.yaml", workspace=workspace), check=True, cwd=folder)
    return workspace, runs


@pytest.fixture(scope="module")
def ui(grid: tuple[Workspace, Sequence[FinishedRun]]) -> Iterator[Served]:
    with served(grid[0], NAME) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as found:
        yield found
