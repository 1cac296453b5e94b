"""What a drill trains is its own; where it does so is taken from an experiment, a file or a site profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.disturbances import find_disturbances
from orchestrator.cli.drill import file_text
from orchestrator.cli.session import open_session
from orchestrator.errors import InputError
from orchestrator.experiment import Experiment, Slurm, load_experiment
from orchestrator.submission import submit
from orchestrator.workspace import Workspace

FILE = """
name: theirs
base: {train: {epochs: 7}}
grid: {seed: [0, 1, 2]}
resources: {cpus_per_node: 3, time: "1:00:00"}
backend: {name: slurm, qos: low, setup: ["export A=$${B}"]}
retries: {failed: 9}
"""
SITE = "backend: {name: slurm, partition: gpu}\nresources: {memory: 8G}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(FILE)
    Path("site.yaml").write_text(SITE)


def of_drill(target: str | None, site: Path | None = None) -> Experiment:
    Path("drill.yaml").write_text(file_text(target, site, Workspace(Path.cwd() / "w")))
    return load_experiment("drill.yaml", (), {})


def alone() -> Experiment:
    return of_drill(None)


def test_alone_it_is_one_small_run() -> None:
    (cell,) = alone().cells()
    assert cell.config.runtime.log_every_steps == 1
    assert cell.resources.cpus_per_node == 1


def test_a_file_gives_resources_backend_and_retries_and_no_run() -> None:
    found = of_drill("theirs.yaml", Path("site.yaml"))
    assert [cell.run_id for cell in found.cells()] == [cell.run_id for cell in alone().cells()]
    assert isinstance(found.backend, Slurm)
    assert (found.backend.partition, found.backend.qos) == ("gpu", "low")
    assert found.backend.setup == ("export A=${B}",)
    assert (found.resources.cpus_per_node, found.resources.memory, found.resources.time_s) == (3, "8G", 3600)
    assert found.retries.failed == 9


def test_an_experiment_gives_what_it_was_submitted_with() -> None:
    session = open_session("w")
    submit(load_experiment("theirs.yaml", ["resources.cpus_per_node=2"], {}), session.controller)
    found = of_drill("theirs")
    assert isinstance(found.backend, Slurm)
    assert (found.backend.qos, found.resources.cpus_per_node, found.retries.failed) == ("low", 2, 9)
    assert len(found.cells()) == 1


def test_what_is_not_there() -> None:
    with pytest.raises(InputError, match="no experiment named 'theirs'"):
        of_drill("theirs")
    open_session("w")
    with pytest.raises(InputError, match="no experiment named 'theirs'"):
        of_drill("theirs")


def test_disturbances_by_name() -> None:
    assert [one.name for one in find_disturbances("local", ())] == ["signal", "kill"]
    assert [one.name for one in find_disturbances("slurm", ("kill", "partition:urgent"))] == [
        "kill",
        "partition:urgent",
    ]
    with pytest.raises(InputError, match="--by partition: is no disturbance of backend slurm"):
        find_disturbances("slurm", ("partition:",))
