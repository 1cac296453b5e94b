"""Site profiles: where and how runs are carried out, under what the experiment file itself says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import InputError
from orchestrator.experiment import Experiment, Local, Slurm, load_experiment, load_site
from orchestrator.provenance import origin

SITES = sorted((Path(__file__).parents[3] / "slurm" / "sites").glob("*.yaml"))

SITE = """
resources: {cpus_per_node: 4, memory: 8G}
backend: {name: slurm, partition: gpu, setup: [module load cuda]}
retries: {failed: 7}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEP_SITE", raising=False)


def experiment(text: str, *overrides: str, site: str = SITE) -> Experiment:
    Path("site.yaml").write_text(site)
    Path("x.yaml").write_text(f"name: x\n{text}")
    return load_experiment("x.yaml", overrides, {}, site=Path("site.yaml"))


def problem(text: str, *overrides: str, site: str = SITE) -> str:
    with pytest.raises(InputError) as caught:
        experiment(text, *overrides, site=site).cells()
    return str(caught.value)


def test_a_site_stands_below_the_file() -> None:
    found = experiment("resources: {memory: 16G}\n")
    assert found.resources.cpus_per_node == 4
    assert found.resources.memory == "16G"
    assert isinstance(found.backend, Slurm)
    assert found.backend.partition == "gpu"
    assert found.retries.failed == 7
    assert [cell.resources.cpus_per_node for cell in found.cells()] == [4]


def test_a_file_that_names_another_backend_leaves_the_site_s() -> None:
    assert isinstance(experiment("backend: local\n").backend, Local)
    assert isinstance(experiment("", "backend=local").backend, Local)


def test_the_command_line_stands_above_both() -> None:
    found = experiment("backend: {partition: cpu}\n", "backend=slurm", "backend.qos=low", "resources.cpus_per_node=2")
    assert isinstance(found.backend, Slurm)
    assert (found.backend.partition, found.backend.qos) == ("cpu", "low")
    assert found.resources.cpus_per_node == 2


def test_a_site_changes_neither_runs_nor_the_digest() -> None:
    with_site = experiment("grid: {seed: [0, 1]}\n")
    without = load_experiment("x.yaml", (), {})
    assert [cell.run_id for cell in with_site.cells()] == [cell.run_id for cell in without.cells()]
    assert with_site.digest == without.digest


def test_a_site_that_is_extended_is_part_of_the_file() -> None:
    Path("site.yaml").write_text(SITE)
    Path("x.yaml").write_text("name: x\nextends: site.yaml\n")
    found = load_experiment("x.yaml", (), {})
    assert isinstance(found.backend, Slurm)
    Path("site.yaml").write_text(SITE.replace("8G", "9G"))
    assert load_experiment("x.yaml", (), {}).digest != found.digest


def test_a_site_extends_other_sites() -> None:
    Path("below.yaml").write_text(SITE)
    found = experiment("", site="extends: below.yaml\nbackend: {qos: low}\n")
    assert isinstance(found.backend, Slurm)
    assert (found.backend.partition, found.backend.qos) == ("gpu", "low")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("name: x\n", "site.yaml:1:1: name is no section of a site profile"),
        ("backend: slurm\nbase: {seed: 1}\n", "site.yaml:2:1: base is no section of a site profile"),
        ("backend: {name: slurm, partitoin: gpu}\n", "site.yaml:1:24: backend.partitoin"),
        ("resources: {cpus_per_node: 0}\n", "site.yaml:1:28: resources.cpus_per_node=0"),
        ("backend: {name: slurm, partition: }\nresources: {nodes: many}\n", "site.yaml:2:20: resources.nodes=many"),
        ("extends: site.yaml\n", "site.yaml:1:10: the files extend one another in a circle"),
        ("", "site.yaml:1:1: the file is empty"),
    ],
)
def test_what_is_wrong_in_a_site_is_said_with_its_place(site: str, message: str) -> None:
    assert problem("", site=site).startswith(message)


def test_a_site_that_is_not_there() -> None:
    Path("x.yaml").write_text("name: x\n")
    Path("cluster.yaml").write_text(SITE)
    with pytest.raises(InputError, match=r"clutser.yaml: there is no such file; did you mean cluster.yaml\?"):
        load_experiment("x.yaml", (), {}, site=Path("clutser.yaml"))


def test_a_site_alone_is_a_set_of_options() -> None:
    Path("site.yaml").write_text(SITE)
    options = load_site(Path("site.yaml"), ["backend.partition=cpu"], {})
    assert isinstance(options.backend, Slurm)
    assert (options.backend.partition, options.resources.cpus_per_node) == ("cpu", 4)
    assert load_site(None, ["backend=slurm"], {}).backend == Slurm()


def test_the_provenance_names_the_site_by_its_absolute_path() -> None:
    found = origin("x", "digest", (), Path("site.yaml")).record
    assert found["experiment"]["site"] == str(Path.cwd() / "site.yaml")
    assert origin("x", "digest").record["experiment"]["site"] is None


def test_the_environment_names_the_site_where_the_command_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.yaml").write_text("name: x\n")
    Path("site.yaml").write_text("resources: {nodes: many}\n")
    monkeypatch.setenv("SWEEP_SITE", "site.yaml")
    answer = CliRunner().invoke(app, ["plan", "x.yaml", "--workspace=w"])
    assert isinstance(answer.exception, InputError)
    assert str(answer.exception).startswith("site.yaml:1:20: ")
    Path("other.yaml").write_text(SITE)
    assert CliRunner().invoke(app, ["plan", "x.yaml", "--site=other.yaml", "--workspace=w"]).exit_code == 0


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_the_profiles_of_the_repository(path: Path) -> None:
    options = load_site(path, (), {})
    assert isinstance(options.backend, Slurm)
    assert options.backend.partition


def test_there_are_profiles() -> None:
    assert {path.stem for path in SITES} == {"dev-cluster", "example-gpu", "example-preemptible", "example-container"}
