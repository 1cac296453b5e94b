"""One real run in the store: its encoder loads without this package, its checkpoints and figures are as asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from orchestrator.collect import collect
from orchestrator.collect.models import ENCODER_TAG, WEIGHTS_ONLY_TAG, registered_name
from orchestrator.collect.store import connect
from orchestrator.runs import TrackingOptions
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from tests.conftest import TINY
from tests.integration.tracking.fabricated import Fabricated, contents, uri_of, view
from tests.integration.tracking.troublesome import Fate, Request, proxy
from trainers.backbones import build_backbone
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.journal import Journal, StatusFile
from trainers.rundir import RunDir, atomic
from trainers.train import carry_out

RUN_ID = "0123456789ab"
AXES = {"method": "moco_v2", "seed": "0"}
CONFIG = RunConfig.model_validate_json(
    json.dumps(
        TINY
        | {
            "evaluate": {"knn": {"k": 5, "every_epochs": 1}, "networks": "paper", "untrained": False},
            "runtime": {"keep_best": "eval/knn/top1", "keep_every_epochs": 1, "log_every_steps": 1},
        }
    )
)

#: Embeds a batch with what MLflow gives, in a process that knows neither this package nor this folder.
LOAD = """
import sys
sys.modules["trainers"] = sys.modules["orchestrator"] = None  # importing them fails from here on
import mlflow, numpy, torch
mlflow.set_tracking_uri(sys.argv[1])
images = torch.from_numpy(numpy.load(sys.argv[2]))
with torch.no_grad():
    for number, uri in enumerate(sys.argv[3:]):
        module = mlflow.pytorch.load_model(uri)
        numpy.save(f"features_{number}.npy", module(images).numpy())
        assert torch.allclose(module(images[:1]), module(images)[:1], atol=1e-5)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of two epochs on digits, really trained; never changed."""
    run_dir = RunDir(tmp_path_factory.mktemp("trained") / "runs" / RUN_ID)
    run_dir.path.mkdir(parents=True)
    spec = {"schema_version": SCHEMA_VERSION, "run_id": RUN_ID, "provenance": {}}
    run_dir.spec_path.write_text(json.dumps({**spec, "config": CONFIG.model_dump(mode="json")}))
    journal = Journal(StatusFile(run_dir.status_path, 1))
    carry_out(run_dir, journal, 1, lambda: False)
    journal.close()
    return run_dir


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was exported: once for all tests here."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def real(tmp_path: Path, empty_store: Path, trained: RunDir, graphs: Path) -> Fabricated:
    """A copy of the run in a workspace of its own."""
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(trained.path, workspace.run_dir(RUN_ID).path)
    shutil.copy(empty_store, workspace.path / "mlflow.db")
    workspace.cache_dir.mkdir()
    (workspace.cache_dir / "exported").symlink_to(graphs)
    return Fabricated(workspace, [view(workspace, 0, RUN_ID, AXES, RunState.COMPLETED)])


def ask(made: Fabricated, **tracking: Any) -> dict[str, Any]:
    """Collect with these options of the section ``tracking``; what the store then holds of the run."""
    made.runs[0] = replace(made.runs[0], tracking=TrackingOptions(**tracking))
    summary = made.collect()
    assert summary.problems == ()
    found: dict[str, Any] = contents(uri_of(made))[RUN_ID]
    return found


def names(found: dict[str, Any], folder: str) -> set[str]:
    return {name.removeprefix(f"{folder}/") for name, _ in found["artifacts"] if name.startswith(f"{folder}/")}


def the_model(made: Fabricated) -> Any:
    client = connect(uri_of(made))
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    return model


def test_the_encoder_embeds_images_in_a_process_without_this_package(real: Fabricated, tmp_path: Path) -> None:
    ask(real, register_models=True)
    model = the_model(real)
    run_dir = real.runs[0].run_dir

    images = np.random.default_rng(0).standard_normal((7, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    (mlflow_run_id,) = {version.run_id for version in registered(real)}
    uris = [
        f"models:/{model.model_id}",
        f"models:/{registered_name('digits-lt', 'moco_v2')}/1",
        f"runs:/{mlflow_run_id}/{model.name}",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, uri_of(real), str(tmp_path / "images.npy"), *uris],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "does not match" not in done.stderr, "the version of torch is the one that exported it"

    network = build_backbone(CONFIG.backbone, CONFIG.data.side)
    network.load_state_dict(safetensors.torch.load_file(run_dir.encoder_path))
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    for number in range(len(uris)):
        np.testing.assert_allclose(np.load(tmp_path / f"features_{number}.npy"), expected, atol=1e-5)


def test_the_model_says_what_it_takes_and_where_it_comes_from(real: Fabricated) -> None:
    found = ask(real)
    _, status, params, files, metrics = found["models"][0]
    assert (status, params) == ("READY", AXES)
    assert files == ["MLmodel", "data", "encoder.safetensors", "requirements.txt"]
    assert {key for key, _, _, data in metrics if data == "digits"} >= {"eval/knn/top1", "train/loss"}
    model = the_model(real)
    assert model.tags["sweep.run_id"] == RUN_ID and WEIGHTS_ONLY_TAG not in model.tags
    described = yaml.safe_load((Path(model.artifact_location) / "MLmodel").read_text())
    facts = described["metadata"]
    assert facts["run_id"] == RUN_ID and facts["step"] == 6 and facts["method"] == "moco_v2"
    assert facts["images"]["size"] == 8 and len(facts["images"]["mean"]) == len(facts["images"]["std"]) == 3
    assert set(described["flavors"]) == {"pytorch", "safetensors"}
    assert json.loads(described["signature"]["inputs"])[0]["tensor-spec"]["shape"] == [-1, 3, 8, 8]


def test_registering_again_registers_nothing_twice(real: Fabricated) -> None:
    ask(real, register_models=True)
    first = versions(real)
    assert [(version["sweep.run_id"], version["seed"], version["data.profile"]) for version in first] == [
        (RUN_ID, "0", "balanced")
    ]
    encoder = real.runs[0].run_dir.encoder_path
    assert first[0][ENCODER_TAG] == hashlib.sha256(encoder.read_bytes()).hexdigest()

    (real.workspace.path / "cursors.json").unlink()  # all memory of it is lost
    ask(real, register_models=True)
    assert versions(real) == first
    assert len(contents(uri_of(real))[RUN_ID]["models"]) == 1

    # Other weights are another version.
    content = encoder.read_bytes()
    atomic.write_bytes(encoder, content[:-1] + bytes([content[-1] ^ 1]))
    result_path = real.runs[0].run_dir.result_path
    atomic.write_bytes(result_path, result_path.read_bytes())
    ask(real, register_models=True)
    assert len(versions(real)) == 2


def registered(made: Fabricated) -> list[Any]:
    """Versions, oldest first."""
    name = registered_name("digits-lt", "moco_v2")
    found = connect(uri_of(made)).search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version))


def versions(made: Fabricated) -> list[dict[str, str]]:
    return [dict(version.tags) for version in registered(made)]


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.ANSWER_LOST])
def test_a_model_whose_upload_was_interrupted_is_completed_and_loads(
    real: Fabricated, tracking_server: str, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a server that takes the files; the collector gives up, and another one goes on."""
    import mlflow.pytorch

    real.name = f"interrupted-{fate.name}"
    real.runs[0] = replace(real.runs[0], tracking=TrackingOptions(register_models=True, figures=False))
    met: list[Request] = []

    def interrupt(asked: Request) -> Fate:
        if not asked.path.endswith("model.pt2") or met:
            return Fate.PASSED
        met.append(asked)
        return fate

    with proxy(tracking_server, interrupt) as uri:
        (problem,) = real.collect(uri, patience_s=0).problems
        assert "the connection was cut" in problem
        assert real.collect(uri).problems == ()
        found = contents(uri, real.name)[RUN_ID]
        assert len(found["models"]) == len(found["versions"]) == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        module = mlflow.pytorch.load_model(f"models:/{registered_name(real.name, 'moco_v2')}/1")
    network = build_backbone(CONFIG.backbone, CONFIG.data.side)
    network.load_state_dict(safetensors.torch.load_file(real.runs[0].run_dir.encoder_path))
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(images), network.eval()(images), atol=1e-5, rtol=0)


def test_an_encoder_that_torch_cannot_export_is_there_as_weights(real: Fabricated) -> None:
    weights = safetensors.torch.load_file(real.runs[0].run_dir.encoder_path)
    del weights[sorted(weights)[0]]  # of a network that this version does not know
    safetensors.torch.save_file(weights, real.runs[0].run_dir.encoder_path)
    found = ask(real)
    assert found["models"][0][3] == ["MLmodel", "encoder.safetensors"]
    assert "encoder.safetensors is of another network" in the_model(real).tags[WEIGHTS_ONLY_TAG]
    assert found["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("last", {"step_6/manifest.json", "step_6/state.pt"}),
        ("best:eval/knn/top1", {"step_6/manifest.json", "step_6/state.pt", "encoder_best.safetensors"}),
        ("every:2", {"step_6/manifest.json", "step_6/state.pt", "encoder_epoch_2.safetensors"}),
        (
            "all",
            {f"step_{step}/{name}" for step in (3, 6) for name in ("manifest.json", "state.pt")}
            | {"encoder_best.safetensors", "encoder_epoch_1.safetensors", "encoder_epoch_2.safetensors"},
        ),
        ("link", {"link.json"}),
        ("none", set()),
    ],
)
def test_checkpoints_are_there_as_asked_for(real: Fabricated, policy: str, expected: set[str]) -> None:
    assert names(ask(real, checkpoints=policy), "checkpoint") == expected


def test_a_link_says_where_the_files_are_and_what_they_hold(real: Fabricated) -> None:
    ask(real, checkpoints="link")
    client = connect(uri_of(real))
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`sweep.run_id` = '{RUN_ID}'")
    link = json.loads(Path(client.download_artifacts(run.info.run_id, "checkpoint/link.json")).read_text())
    found = {Path(entry["path"]).name: entry for entry in link["files"]}
    assert set(found) >= {"state.pt", "manifest.json", "encoder.safetensors", "encoder_best.safetensors"}
    for entry in found.values():
        content = Path(entry["path"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_nothing_is_uploaded_again_while_nothing_changes(real: Fabricated) -> None:
    ask(real, checkpoints="all", register_models=True)
    arguments = {"uri": None, "workspace": real.workspace, "cursors": real.cursors}
    again = collect(real.experiment, real.runs, **arguments)
    assert (again.changed, again.points, again.artifacts) == (0, 0, 0)


def test_what_was_evaluated_is_drawn(real: Fabricated) -> None:
    assert names(ask(real, figures=False), "figures") == set()
    path = real.runs[0].run_dir.result_path
    atomic.write_bytes(path, path.read_bytes())
    assert names(ask(real), "figures") >= {"loss.png", "confusion_knn.png", "class_histogram.png"}
