"""``sweep reproduce``: from a store alone, the file of a run that is the same run, and what has changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.reproduce import reproduce_run
from orchestrator.collect.store import connect
from orchestrator.data_check import read_data
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.experiment import load_experiment
from orchestrator.provenance import origin
from orchestrator.spec import run_id
from orchestrator.workspace import Workspace
from tests.integration.tracking.fabricated import Fabricated, uri_of
from tests.integration.tracking.test_server import served
from trainers.config import Data, LongTailed, RunConfig
from trainers.rundir import RunDir, atomic


@pytest.fixture(scope="session")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the images that the fabricated runs select."""
    found = read_data([Data(profile=LongTailed())], tmp_path_factory.mktemp("cache"))
    assert isinstance(found, tuple)
    return found[0]


@pytest.fixture
def collected(fabricated: Fabricated, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricated:
    """Runs with their true ids, provenance and digests, in a store; the working directory is another machine's."""
    for number, run in enumerate(fabricated.runs):
        spec = run.run_dir.read_spec()
        assert spec is not None
        spec["run_id"] = run_id(RunConfig.model_validate(spec["config"]))
        found = origin("digits-lt", "digest")
        atomic.write_json(run.run_dir.spec_path, {**spec, "provenance": dict(found.record)})
        if found.source_diff:
            run.run_dir.source_diff_path.write_bytes(found.source_diff)
        record = atomic.read_json(run.run_dir.dataset_path)
        atomic.write_json(run.run_dir.dataset_path, {**record, "digest": digest})
        moved = run.run_dir.path.rename(run.run_dir.path.with_name(spec["run_id"]))
        fabricated.runs[number] = type(run)(**{**vars(run), "run_id": spec["run_id"], "run_dir": RunDir(moved)})
    fabricated.collect()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return fabricated


def mlflow_id(uri: str, run_id: str) -> str:
    client = connect(uri)
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`sweep.run_id` = '{run_id}'")
    return str(run.info.run_id)


def differing(found: Any) -> dict[str, tuple[str, str]]:
    """What is said to differ. The checkout that the tests run from may change meanwhile."""
    rows = [one for one in found["compared"] if one["is_same"] is False]
    return {one["what"]: (one["then"], one["now"]) for one in rows if one["what"] not in ("commit", "not committed")}


def answer(capsys: pytest.CaptureFixture[str], prefix: str, uri: str | None, **options: Any) -> tuple[int, Any]:
    output, workspace = options.get("output"), options.get("workspace")
    code = reproduce_run(prefix, uri, output, workspace, as_json=True)
    return code, json.loads(capsys.readouterr().out)


def test_a_run_comes_back_from_the_store_by_either_id(
    collected: Fabricated, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, run = uri_of(collected), collected.runs[1]
    shutil.rmtree(collected.workspace.runs_dir)  # the store is all there is
    for prefix in (mlflow_id(uri, run.run_id), run.run_id, run.run_id[:8]):
        code, found = answer(capsys, prefix, uri)
        assert not differing(found)
        assert code == (0 if found["same"] else 1)
        assert found["run_id"] == run.run_id
    (cell,) = load_experiment(Path(found["files"][0]), environment={}).cells()
    assert cell.run_id == run.run_id


def test_what_has_changed_since_is_said_and_the_file_written_anyway(
    collected: Fabricated, capsys: pytest.CaptureFixture[str]
) -> None:
    run = collected.runs[0]
    spec = run.run_dir.read_spec()
    assert spec is not None
    spec["provenance"]["packages"]["torch"] = "0.1"
    atomic.write_json(run.run_dir.spec_path, spec)
    record = atomic.read_json(run.run_dir.dataset_path)
    atomic.write_json(run.run_dir.dataset_path, {**record, "digest": "e" * 32})
    collected.collect()
    code, found = answer(capsys, run.run_id, uri_of(collected), output=Path("mine.yaml"))
    assert code == 1
    assert set(differing(found)) == {"torch", "images of digits"}
    assert differing(found)["torch"][0] == "0.1"
    assert differing(found)["images of digits"][0] == "e" * 12
    assert Path("mine.yaml").exists()


@pytest.mark.soak  # in CI, the tests of servers ask for one run
def test_a_tracking_server_is_enough(
    collected: Fabricated, tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "server.db"
    shutil.copy(empty_store, store)
    with served(tmp_path, store) as uri:
        connect(uri).create_experiment("digits-lt", artifact_location="mlflow-artifacts:/digits-lt")
        collected.collect(uri)
        run = collected.runs[0]
        _, found = answer(capsys, mlflow_id(uri, run.run_id)[:12], uri)
        assert found["run_id"] == run.run_id
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        reproduce_run(run.run_id, uri, None, None, as_json=True)


def test_bad_ids_are_one_sentence(collected: Fabricated) -> None:
    uri, run = uri_of(collected), collected.runs[0]
    wrong = run.run_id[:-1] + ("0" if run.run_id[-1] != "0" else "1")
    parent = connect(uri).search_runs(["1"], "tags.`sweep.role` = 'experiment'")[0].info.run_id
    for prefix, message in {
        "zebra": "'zebra' is no run id",
        "": "'' is no run id",
        wrong: f"did you mean {run.run_id}",
        parent: "is the parent run of experiment digits-lt",
    }.items():
        with pytest.raises(InputError) as caught:
            reproduce_run(prefix, uri, None, None, as_json=False)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one with --tracking-uri"):
        reproduce_run("abc", f"sqlite:///{tmp_path / 'none.db'}", None, None, as_json=False)
    with pytest.raises(InputError, match="no workspace"):
        reproduce_run("abc", None, None, str(tmp_path / "none"), as_json=False)
    assert not list(tmp_path.iterdir())


def test_a_file_of_other_content_stays(collected: Fabricated) -> None:
    Path("mine.yaml").write_text("name: mine\n")
    with pytest.raises(InputError, match="says something else"):
        reproduce_run(collected.runs[0].run_id, uri_of(collected), Path("mine.yaml"), None, as_json=False)
    assert Path("mine.yaml").read_text() == "name: mine\n"


def test_a_setting_that_this_version_does_not_know_is_named(
    collected: Fabricated, capsys: pytest.CaptureFixture[str]
) -> None:
    run = collected.runs[0]
    spec = run.run_dir.read_spec()
    assert spec is not None
    spec["config"]["train"]["magic"] = 1
    atomic.write_json(run.run_dir.spec_path, spec)
    client = connect(uri_of(collected))
    client.log_artifact(mlflow_id(uri_of(collected), run.run_id), str(run.run_dir.spec_path))
    code, found = answer(capsys, run.run_id, uri_of(collected), workspace=str(Workspace(Path("none")).path))
    assert code == 1
    assert "train.magic is not an option" in found["compared"][0]["now"]
